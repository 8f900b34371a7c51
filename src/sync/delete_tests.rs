use super::*;
use crate::sync::pattern::Pattern;
use crate::sync::select::{Named, Patterns};

fn digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

/// A target whose registry, sources and copies are well, in which tests break one thing each.
struct Case {
    tags: BTreeMap<String, Option<Digest>>,
    below: HashMap<Digest, Vec<Digest>>,
    pinned: Vec<Digest>,
    deletes: Deletes,
    max_share: u8,
    selection: Selection,
    attachments: Attachments,
    source: SourceTags,
    copies: Copies,
}

impl Case {
    /// Tags with the names of their manifests; `old` is no more at the source.
    fn new(tags: &[(&str, &str)]) -> Case {
        let below = tags.iter().map(|(_, manifest)| (digest(manifest), Vec::new())).collect();
        Case {
            tags: tags.iter().map(|(tag, manifest)| ((*tag).into(), Some(digest(manifest)))).collect(),
            below,
            pinned: Vec::new(),
            deletes: Deletes::ByTag,
            max_share: 100,
            selection: Selection { named: Vec::new(), patterns: Some(Patterns::default()) },
            attachments: Attachments::All,
            source: listed(&["new", "1"]),
            copies: Copies::Succeeded,
        }
    }

    fn claim(&self) -> Claim<'_> {
        let Case { selection, attachments, source, copies, .. } = self;
        Claim { selection, attachments: *attachments, source, copies: *copies }
    }

    fn decide(&self, others: &[Claim<'_>]) -> BTreeMap<String, Decision> {
        let claims: Vec<Claim<'_>> = std::iter::once(self.claim()).chain(others.iter().copied()).collect();
        let Case { tags, below, pinned, deletes, max_share, .. } = self;
        decide(&Target { tags, below, pinned, deletes: *deletes, max_share: *max_share }, &claims)
    }

    fn of(&self, tag: &str) -> Decision {
        self.decide(&[]).remove(tag).unwrap()
    }
}

fn listed(tags: &[&str]) -> SourceTags {
    SourceTags::Complete(tags.iter().map(|tag| (*tag).into()).collect())
}

fn stem(manifest: &str) -> String {
    digest_stem(&digest(manifest))
}

#[test]
fn a_tag_that_the_source_has_no_more_goes() {
    let case = Case::new(&[("new", "n"), ("old", "o")]);
    assert_eq!(case.of("old"), Decision::ByTag);
    assert_eq!(case.of("new"), Decision::Leave(Why::AtSource));
}

#[test]
fn a_tag_that_the_file_does_not_select_stays() {
    let mut case = Case::new(&[("new", "n"), ("old", "o")]);
    let globs = vec![Pattern::glob("n*").unwrap()];
    case.selection.patterns = Some(Patterns { globs, ..Patterns::default() });
    assert_eq!(case.of("old"), Decision::Leave(Why::NotSelected));
    case.selection = Selection { named: vec![Named::tag("new")], patterns: None };
    assert_eq!(case.of("old"), Decision::Leave(Why::NotSelected));
    case.selection.named.push(Named::tag("old"));
    assert_eq!(case.of("old"), Decision::ByTag);
}

#[test]
fn an_unknown_or_empty_source_takes_nothing_away() {
    let mut case = Case::new(&[("new", "n"), ("old", "o")]);
    case.source = SourceTags::Unknown;
    assert_eq!(case.of("old"), Decision::Leave(Why::SourceUnknown));
    case.source = listed(&[]);
    assert_eq!(case.of("old"), Decision::Leave(Why::SourceEmpty));
}

#[test]
fn a_failed_copy_takes_nothing_away() {
    let mut case = Case::new(&[("new", "n"), ("old", "o")]);
    case.copies = Copies::Failed;
    assert_eq!(case.of("old"), Decision::Leave(Why::CopyFailed));
}

#[test]
fn every_source_of_the_target_has_a_say() {
    let case = Case::new(&[("new", "n"), ("old", "o")]);
    let selection = Selection { named: vec![Named::tag("x")], patterns: None };
    let (with, without) = (listed(&["old"]), listed(&["x"]));
    let claim = |source, copies| Claim { selection: &selection, attachments: Attachments::None, source, copies };
    let decide = |claim| case.decide(&[claim]).remove("old").unwrap();
    assert_eq!(decide(claim(&with, Copies::Succeeded)), Decision::Leave(Why::AtSource));
    assert_eq!(decide(claim(&SourceTags::Unknown, Copies::Succeeded)), Decision::Leave(Why::SourceUnknown));
    assert_eq!(decide(claim(&without, Copies::Failed)), Decision::Leave(Why::CopyFailed));
    assert_eq!(decide(claim(&without, Copies::Succeeded)), Decision::ByTag);
}

#[test]
fn signatures_stay_as_long_as_their_image() {
    let (signature, of_old) = (format!("{}.sig", stem("n")), format!("{}.sig", stem("o")));
    let (fallback, countersigned) = (stem("n"), format!("{}.sig", stem("s")));
    let tags =
        [("new", "n"), ("old", "o"), (&*signature, "s"), (&*of_old, "so"), (&*fallback, "f"), (&*countersigned, "ss")];
    let mut case = Case::new(&tags);
    assert_eq!(case.of(&signature), Decision::Leave(Why::Attached(digest("n"))));
    assert_eq!(case.of(&fallback), Decision::Leave(Why::Attached(digest("n"))));
    assert_eq!(case.of(&countersigned), Decision::Leave(Why::Attached(digest("s"))));
    assert_eq!(case.of(&of_old), Decision::ByTag);
    case.attachments = Attachments::None;
    assert_eq!(case.of(&of_old), Decision::Leave(Why::NotSelected));
    case.attachments = Attachments::All;
    case.tags.insert("new".into(), None);
    assert_eq!(case.of(&of_old), Decision::Leave(Why::Unresolved("new".into())));
}

#[test]
fn the_signature_of_a_child_of_a_kept_index_stays() {
    let signature = format!("{}.sig", stem("child"));
    let mut case = Case::new(&[("new", "index"), (&*signature, "s")]);
    case.below.insert(digest("index"), vec![digest("child")]);
    assert_eq!(case.of(&signature), Decision::Leave(Why::Attached(digest("child"))));
    case.below.remove(&digest("index"));
    assert_eq!(case.of(&signature), Decision::Leave(Why::Unresolved("new".into())));
}

#[test]
fn a_manifest_goes_only_when_no_tag_that_stays_names_it() {
    let mut case = Case::new(&[("new", "n"), ("old", "n"), ("older", "o"), ("oldest", "o")]);
    assert_eq!(case.of("old"), Decision::ByTag);
    case.deletes = Deletes::ByDigestOnly;
    assert_eq!(case.of("old"), Decision::Leave(Why::NeededBy("new".into())));
    assert_eq!(case.of("older"), Decision::ByDigest(digest("o")));
    assert_eq!(case.of("oldest"), Decision::ByDigest(digest("o")));
}

#[test]
fn a_child_of_a_kept_index_is_not_deleted() {
    let mut case = Case::new(&[("new", "index"), ("old", "child")]);
    case.deletes = Deletes::ByDigestOnly;
    case.below.insert(digest("index"), vec![digest("child")]);
    assert_eq!(case.of("old"), Decision::Leave(Why::NeededBy("new".into())));
}

#[test]
fn what_is_wanted_by_digest_is_not_deleted() {
    let mut case = Case::new(&[("new", "n"), ("old", "o")]);
    case.deletes = Deletes::ByDigestOnly;
    case.pinned = vec![digest("o")];
    assert_eq!(case.of("old"), Decision::Leave(Why::Pinned));
    case.pinned = vec![digest("elsewhere")];
    assert_eq!(case.of("old"), Decision::Leave(Why::Unresolved(digest("elsewhere").to_string())));
}

#[test]
fn nothing_goes_by_digest_while_a_remaining_tag_is_unresolved() {
    let mut case = Case::new(&[("new", "n"), ("old", "o"), ("1", "1")]);
    case.deletes = Deletes::ByDigestOnly;
    case.tags.insert("1".into(), None);
    assert_eq!(case.of("old"), Decision::Leave(Why::Unresolved("1".into())));
    case.tags.insert("1".into(), Some(digest("no children known")));
    assert_eq!(case.of("old"), Decision::Leave(Why::Unresolved("1".into())));
    case.below.insert(digest("no children known"), Vec::new());
    assert_eq!(case.of("old"), Decision::ByDigest(digest("o")));
    case.tags.insert("old".into(), None);
    assert_eq!(case.of("old"), Decision::Leave(Why::Unresolved("old".into())));
}

#[test]
fn an_image_that_cannot_go_keeps_its_signature() {
    let signature = format!("{}.sig", stem("o"));
    let mut case = Case::new(&[("new", "n"), ("old", "o"), (&*signature, "s")]);
    case.tags.insert("old".into(), None);
    assert_eq!(case.of(&signature), Decision::ByTag);
    case.deletes = Deletes::ByDigestOnly;
    assert_eq!(case.of(&signature), Decision::Leave(Why::Unresolved("old".into())));
}

#[test]
fn more_than_the_share_is_refused_as_a_whole() {
    let names: Vec<String> = (0..10).map(|n| format!("t{n}")).collect();
    let tags: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), name.as_str())).collect();
    let mut case = Case::new(&tags);
    case.max_share = 10;
    let all_but = |count: usize| listed(&names[count..].iter().map(String::as_str).collect::<Vec<_>>());
    case.source = all_but(1);
    assert_eq!(case.of("t0"), Decision::ByTag);
    case.source = all_but(2);
    let why = Why::TooMany { going: 2, total: 10, max_share: 10 };
    assert_eq!(case.of("t0"), Decision::Leave(why.clone()));
    assert_eq!(case.of("t1"), Decision::Leave(why));
    case.max_share = 20;
    assert_eq!(case.of("t1"), Decision::ByTag);
    case.max_share = 0;
    assert!(matches!(case.of("t1"), Decision::Leave(Why::TooMany { .. })));
}

#[test]
fn every_tag_gets_a_decision() {
    let signature = format!("{}.sig", stem("gone"));
    let case = Case::new(&[("new", "n"), ("old", "o"), (&*signature, "s")]);
    assert_eq!(case.decide(&[]).len(), 3);
}

proptest::proptest! {
    #[test]
    fn whatever_is_known_nothing_that_stays_is_harmed(
        manifests in proptest::collection::vec(proptest::option::weighted(0.9, 0usize..5), 1..9),
        below in proptest::collection::vec(proptest::option::weighted(0.9, proptest::collection::vec(0usize..5, 0..3)), 5),
        at_source in proptest::collection::btree_set(0usize..9, 1..6),
        by_digest: bool,
    ) {
        let name = |n: usize| format!("m{n}");
        let mut case = Case::new(&[]);
        case.tags = (0..).zip(&manifests).map(|(n, m)| (format!("t{n}"), m.map(|m: usize| digest(&name(m))))).collect();
        // Signatures of two of the manifests.
        case.tags.extend([0, 1].map(|n| (format!("{}.sig", stem(&name(n))), Some(digest(&name(4 - n))))));
        // Children have higher numbers; what is below them is below their parents too, or as unknown.
        for (n, children) in below.iter().enumerate().rev() {
            let all = children.iter().flatten().filter(|child| **child > n).try_fold(Vec::new(), |mut all, child| {
                all.push(digest(&name(*child)));
                all.extend(case.below.get(&digest(&name(*child)))?.iter().cloned());
                Some(all)
            });
            case.below.extend(all.filter(|_| children.is_some()).map(|all| (digest(&name(n)), all)));
        }
        let listed: BTreeSet<String> = at_source.iter().map(|n| format!("t{n}")).collect();
        case.source = SourceTags::Complete(listed.clone());
        case.deletes = if by_digest { Deletes::ByDigestOnly } else { Deletes::ByTag };
        let decisions = case.decide(&[]);
        let stays: Vec<&String> =
            decisions.iter().filter(|(_, d)| matches!(d, Decision::Leave(_))).map(|(tag, _)| tag).collect();
        let needed = |tag: &str| match &case.tags[tag] {
            Some(digest) => case.below.get(digest).map(|below| [std::slice::from_ref(digest), below.as_slice()].concat()),
            None => None,
        };
        proptest::prop_assert_eq!(decisions.len(), case.tags.len());
        for (tag, decision) in &decisions {
            proptest::prop_assert!(stays.contains(&tag) || !listed.contains(tag));
            proptest::prop_assert!(*decision != Decision::ByTag || !by_digest);
            if let Decision::ByDigest(gone) = decision {
                for other in &stays {
                    let needed = needed(other);
                    proptest::prop_assert!(needed.is_some_and(|needed| !needed.contains(gone)), "{tag} harms {other}");
                }
            }
            if let (Some(stem), false) = (digest_tag(tag), stays.contains(&tag)) {
                let needs = |other: &&String| needed(other).is_none_or(|n| n.iter().any(|d| digest_stem(d) == stem));
                proptest::prop_assert!(!stays.iter().any(needs), "{tag} belongs to what stays");
            }
        }
    }
}
