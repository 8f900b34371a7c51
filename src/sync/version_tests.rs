use proptest::prelude::*;

use super::*;

fn version(text: &str) -> Version {
    text.parse().unwrap()
}

fn chosen(range: &str, dialect: Dialect, tags: &[&'static str]) -> Vec<&'static str> {
    let range = Range::parse(range, dialect).unwrap();
    tags.iter().copied().filter(|tag| range.contains(tag)).collect()
}

#[test]
fn tags_are_versions_as_the_tools_read_them() {
    for text in ["1", "v1.2", "1.2.3", "8.0.36-debian", "1.2.3-rc.1", "01.2", "2024.11.03", "1.2.3.4"] {
        assert!(text.parse::<Version>().is_ok(), "{text}");
    }
    for text in ["", "v", "latest", "1.", ".1", "1..2", "1.x", "1-", "1-a..b", "99999999999999999999", "1_2", "+1"] {
        assert!(text.parse::<Version>().is_err(), "{text}");
    }
}

#[test]
fn ranges_take_what_masterminds_takes() {
    const TAGS: [&str; 12] =
        ["0.2.3", "0.2.9", "0.3.0", "1", "v1.2", "1.2.3", "1.2.9", "1.3.0", "2.0.0", "2.0.0-rc1", "8.0.36-debian", "x"];
    let take = |range: &str| chosen(range, Dialect::Semver, &TAGS);
    assert_eq!(take(">= 1.3"), ["1.3.0", "2.0.0"]);
    assert_eq!(take("~1.2"), ["v1.2", "1.2.3", "1.2.9"]);
    assert_eq!(take("~1"), ["1", "v1.2", "1.2.3", "1.2.9", "1.3.0"]);
    assert_eq!(take("^1.2"), ["v1.2", "1.2.3", "1.2.9", "1.3.0"]);
    assert_eq!(take("^0.2.3"), ["0.2.3", "0.2.9"]);
    assert_eq!(take("1.2.x"), ["v1.2", "1.2.3", "1.2.9"]);
    assert_eq!(take("1.2.3"), ["1.2.3"]);
    assert_eq!(take("1.2 - 1.2.3"), ["v1.2", "1.2.3"]);
    assert_eq!(take("<1 || >=2"), ["0.2.3", "0.2.9", "0.3.0", "2.0.0"]);
    assert_eq!(take(">1.2, <2"), ["1.3.0"]);
    assert_eq!(take(">1"), ["2.0.0"]);
    assert_eq!(take("<=1.2"), ["0.2.3", "0.2.9", "0.3.0", "1", "v1.2", "1.2.3", "1.2.9"]);
    assert_eq!(take("*").len(), 9);
    assert_eq!(take("!=1.x"), ["0.2.3", "0.2.9", "0.3.0", "2.0.0"]);
}

#[test]
fn a_pre_release_is_taken_only_when_the_range_names_one() {
    const TAGS: [&str; 4] = ["8.0.36", "8.0.36-debian", "2.0.0-rc1", "2.0.0"];
    assert_eq!(chosen(">=2", Dialect::Semver, &TAGS), ["8.0.36", "2.0.0"]);
    assert_eq!(chosen(">=2-0", Dialect::Semver, &TAGS), TAGS);
    assert_eq!(chosen(">=2", Dialect::Regsync, &TAGS), ["8.0.36", "8.0.36-debian", "2.0.0"]);
}

#[test]
fn regsync_has_rules_of_its_own() {
    const TAGS: [&str; 6] = ["1.0.5", "1.1.0", "1.9", "2.0.0-rc1", "2.0.0", "1.2.3.4"];
    assert_eq!(chosen("~1", Dialect::Regsync, &TAGS), ["1.0.5"]);
    assert_eq!(chosen("^1.1", Dialect::Regsync, &TAGS), ["1.1.0", "1.9", "2.0.0-rc1", "1.2.3.4"]);
    assert_eq!(chosen(">=1.1.0 <1.5", Dialect::Regsync, &TAGS), ["1.1.0", "1.2.3.4"]);
    for bad in ["", ">= 1", "1.x", "^1 || ^2"] {
        assert!(Range::parse(bad, Dialect::Regsync).is_err(), "{bad}");
    }
}

#[test]
fn what_is_no_range_is_refused() {
    for bad in ["abc", ">=", "1.2.3.4", "1..2", ">= 1 -", "~ ~1", "1.x.2.y", "latest"] {
        assert!(Range::parse(bad, Dialect::Semver).is_err(), "{bad}");
    }
    assert!(Range::parse(&"1 ".repeat(4000), Dialect::Semver).is_err());
}

#[test]
fn pre_releases_are_ordered_as_semantic_versioning_says() {
    let order = ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11"];
    for pair in order.windows(2) {
        assert!(version(pair[0]).compare(&version(pair[1]), Dialect::Semver).is_lt(), "{pair:?}");
    }
    assert!(version("1-rc2").newness(&version("1-rc10")).is_lt());
    assert!(version("1-rc10").newness(&version("1")).is_lt());
}

proptest! {
    #[test]
    fn newness_is_an_order(a in "v?[0-9]{1,2}(\\.[0-9]{1,2}){0,3}(-[a-z0-9]{1,4})?",
                           b in "v?[0-9]{1,2}(\\.[0-9]{1,2}){0,3}(-[a-z0-9]{1,4})?",
                           c in "v?[0-9]{1,2}(\\.[0-9]{1,2}){0,3}(-[a-z0-9]{1,4})?") {
        let (a, b, c) = (version(&a), version(&b), version(&c));
        for dialect in [Dialect::Semver, Dialect::Regsync] {
            prop_assert_eq!(a.compare(&b, dialect), b.compare(&a, dialect).reverse());
            prop_assert_eq!(a.compare(&a, dialect), Ordering::Equal);
            if a.compare(&b, dialect).is_le() && b.compare(&c, dialect).is_le() {
                prop_assert!(a.compare(&c, dialect).is_le());
            }
        }
    }

    #[test]
    fn ranges_agree_with_comparing_the_numbers(bound in [0u64..4, 0..4, 0..4], tag in [0u64..4, 0..4, 0..4]) {
        let text = |v: [u64; 3]| format!("{}.{}.{}", v[0], v[1], v[2]);
        let holds = |op: &str| Range::parse(&format!("{op}{}", text(bound)), Dialect::Semver).unwrap().contains(&text(tag));
        prop_assert_eq!(holds(">="), tag >= bound);
        prop_assert_eq!(holds("<"), tag < bound);
        prop_assert_eq!(holds("="), tag == bound);
        prop_assert_eq!(holds("!="), tag != bound);
        prop_assert_eq!(holds("~"), bound == [0; 3] || tag >= bound && tag[..2] == bound[..2]);
        if bound[0] > 0 {
            prop_assert_eq!(holds("^"), tag >= bound && tag[0] == bound[0]);
        }
    }

    #[test]
    fn no_text_makes_the_parsers_panic(range in ".{0,40}", tag in ".{0,40}") {
        for dialect in [Dialect::Semver, Dialect::Regsync] {
            if let Ok(range) = Range::parse(&range, dialect) {
                range.contains(&tag);
            }
        }
    }
}
