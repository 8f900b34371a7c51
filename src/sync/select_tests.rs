use proptest::prelude::*;

use super::*;
use crate::sync::version::Dialect;

const TAGS: [&str; 10] =
    ["latest", "8", "8.0", "8.0.36", "8.0.36-debian", "8.0.9", "8.4.3", "9.1.0", "v9.2", "nightly"];

fn chosen(patterns: Patterns, tags: &[&str]) -> Vec<String> {
    let selection = Selection { named: Vec::new(), patterns: Some(patterns) };
    selection.choose(tags).unwrap().iter().map(|named| named.target().unwrap().to_owned()).collect()
}

fn globs(texts: &[&str]) -> Vec<Pattern> {
    texts.iter().map(|text| Pattern::glob(text).unwrap()).collect()
}

fn newest(count: usize) -> Option<NonZeroUsize> {
    NonZeroUsize::new(count)
}

#[test]
fn without_patterns_every_tag_is_meant_in_order() {
    let mut sorted = TAGS.map(String::from);
    sorted.sort();
    assert_eq!(chosen(Patterns::default(), &TAGS), sorted);
}

#[test]
fn kinds_of_patterns_narrow_and_patterns_of_a_kind_widen() {
    let both = Patterns { globs: globs(&["8*", "9*"]), ..Patterns::default() };
    assert_eq!(chosen(both.clone(), &TAGS), ["8", "8.0", "8.0.36", "8.0.36-debian", "8.0.9", "8.4.3", "9.1.0"]);
    let ranges = vec![Range::parse(">=8.4", Dialect::Semver).unwrap()];
    let narrowed = Patterns { ranges, ..both };
    assert_eq!(chosen(narrowed.clone(), &TAGS), ["8.4.3", "9.1.0"]);
    assert_eq!(chosen(Patterns { except: globs(&["9*"]), ..narrowed }, &TAGS), ["8.4.3"]);
}

#[test]
fn the_newest_are_versions_and_compared_as_such() {
    let three = Patterns { newest: newest(3), ..Patterns::default() };
    assert_eq!(chosen(three, &TAGS), ["8.4.3", "9.1.0", "v9.2"]);
    let of_80 = Patterns { globs: globs(&["8.0*"]), newest: newest(2), ..Patterns::default() };
    assert_eq!(chosen(of_80, &TAGS), ["8.0.36", "8.0.36-debian"]);
    let one = Patterns { newest: newest(1), ..Patterns::default() };
    assert_eq!(chosen(one.clone(), &["1", "1.0", "1.0.0"]), ["1.0.0"]);
    assert_eq!(chosen(one, &["latest"]), [""; 0]);
}

#[test]
fn what_is_named_is_meant_even_if_the_source_does_not_list_it() {
    let selection = Selection { named: vec![Named::tag("7"), Named::tag("8")], patterns: None };
    assert!(!selection.needs_list());
    assert_eq!(selection.choose(&["8", "9"]).unwrap(), [Named::tag("7"), Named::tag("8")]);
}

#[test]
fn tags_that_name_a_digest_are_never_chosen_by_a_pattern() {
    let hex = "a".repeat(64);
    for tag in
        [format!("sha256-{hex}"), format!("sha256-{hex}.sig"), format!("sha512-{hex}"), format!("sha256-{hex}.x")]
    {
        assert_eq!(digest_tag(&tag).map(str::len), Some(71));
        assert_eq!(chosen(Patterns::default(), &[&tag]), [""; 0]);
        assert_eq!(chosen(Patterns { globs: globs(&["sha*"]), ..Patterns::default() }, &[&tag]), [""; 0]);
    }
    for tag in ["sha256-abc", &format!("sha256-{hex}a"), &format!("md5-{hex}"), "latest", &format!("x{hex}.sig")] {
        assert_eq!(digest_tag(tag), None, "{tag}");
    }
    let named = Selection { named: vec![Named::tag(&format!("sha256-{hex}.sig"))], patterns: None };
    assert_eq!(named.choose::<&str>(&[]).unwrap().len(), 1);
}

#[test]
fn the_tags_of_a_digest_begin_with_its_stem() {
    let digest = Digest::of(b"x");
    let tag = format!("{}.att", digest_stem(&digest));
    assert_eq!(digest_tag(&tag), Some(digest_stem(&digest).as_str()));
}

#[test]
fn a_hostile_list_is_bounded_and_cleaned() {
    let bad = ["../x", "a b", "", "-x", "ü", &"a".repeat(129), "ok"];
    assert_eq!(chosen(Patterns::default(), &bad), ["ok"]);
    let selection = Selection { named: Vec::new(), patterns: Some(Patterns::default()) };
    let many: Vec<String> = (0..=MAX_TAGS).map(|n| n.to_string()).collect();
    assert!(matches!(selection.choose(&many), Err(Error::Limit(_))));
    assert_eq!(selection.choose(&many[1..]).unwrap().len(), MAX_TAGS);
}

proptest! {
    #[test]
    fn the_order_of_the_list_and_repetitions_change_nothing(
        mut tags in prop::collection::vec("v?[0-9]{1,2}(\\.[0-9]{1,2}){0,2}(-[a-z]{1,3})?|[a-z]{1,4}", 0..20),
        count in 1usize..6,
    ) {
        let selection = Selection {
            named: Vec::new(),
            patterns: Some(Patterns { newest: newest(count), ..Patterns::default() }),
        };
        let first = selection.choose(&tags).unwrap();
        tags.extend(tags.clone());
        tags.reverse();
        prop_assert_eq!(&selection.choose(&tags).unwrap(), &first);
        prop_assert!(first.len() <= count);
        for named in first {
            prop_assert!(selection.matches(named.target().unwrap()));
        }
    }
}
