//! What files say, and what they select.

use super::*;
use crate::oci::Digest;

const SOURCE: [&str; 16] = [
    "latest",
    "edge",
    "1.13.1-alpine-perl",
    "1.13.3-alpine-perl",
    "1.27-alpine",
    "3.0",
    "3.12.1",
    "3.20",
    "4.0.0",
    "8",
    "8.0.36",
    "8.0.40",
    "8.4.3",
    "9.0.0",
    "v3.5.0",
    "v3.6.0-rc.1",
];

fn environment(name: &str) -> Option<String> {
    (name != "UNSET").then(|| format!("value of {name}"))
}

fn to(prefix: &str, scope: Scope) -> Context<'static> {
    Context { destination: Some(Destination { prefix: prefix.into(), scope }), environment: &environment }
}

fn nowhere() -> Context<'static> {
    Context { destination: None, environment: &environment }
}

fn toml(text: &str) -> Result<Mirror> {
    read(Path::new("m.toml"), text.as_bytes(), &nowhere())
}

fn skopeo(text: &str) -> Result<Mirror> {
    read(Path::new("s.yaml"), text.as_bytes(), &to("mirror.example/team", Scope::LastComponent))
}

fn regsync(text: &str) -> Result<Mirror> {
    read(Path::new("r.yaml"), text.as_bytes(), &nowhere())
}

fn refusal(mirror: Result<Mirror>) -> String {
    let error = mirror.unwrap_err();
    assert!(matches!(error, Error::Usage(_)), "{error:?}");
    error.to_string()
}

/// One line an entry: source, target, what is chosen of [`SOURCE`], and the rest where it is not the default.
fn told(mirror: &Mirror) -> Vec<String> {
    let name = |named: &Named| match named {
        Named::Tag { source, target } if source == target => source.clone(),
        Named::Tag { source, target } => format!("{source}={target}"),
        Named::Digest { source, target } => format!("{}={target:?}", source.short()),
    };
    let tell = |entry: &Entry| {
        let chosen: Vec<String> = entry.selection.choose(&SOURCE).unwrap().iter().map(name).collect();
        let mut line = format!("{}: {} -> {}: {}", entry.line, entry.source, entry.target, chosen.join(" "));
        match &entry.platforms {
            Platforms::Whole => {}
            Platforms::Only(platforms) => line += &format!(", {} platforms", platforms.len()),
            Platforms::Single(platform) => line += &format!(", only {platform}"),
        }
        if entry.attachments != Attachments::None {
            line += &format!(", {:?}", entry.attachments);
        }
        line
    };
    mirror.entries.iter().map(tell).collect()
}

#[test]
fn our_own_form_says_all_of_it() {
    let mirror = toml(include_str!("../../fixtures/sync/mirror.toml")).unwrap();
    assert_eq!(mirror.form, Form::Native);
    let m = "mirror.example:5000";
    assert_eq!(
        told(&mirror),
        [
            format!(
                "13: docker.io/library/mysql -> {m}/docker.io/library/mysql: 8 8.0.36 8.0.40 8.4.3 latest, 2 platforms"
            ),
            format!("20: quay.io/coreos/etcd -> {m}/quay.io/coreos/etcd: v3.5.0, 2 platforms"),
            format!("20: quay.io/prometheus/prometheus -> {m}/quay.io/prometheus/prometheus: v3.5.0, 2 platforms"),
            format!("25: docker.io/library/nginx -> {m}/alpine/nginx: 1.27-alpine"),
            format!("25: docker.io/library/httpd -> {m}/alpine/httpd: 1.27-alpine"),
            format!("32: registry.k8s.io/pause -> {m}/registry.k8s.io/pause: 7031c1b28338=None, 2 platforms"),
        ]
    );
    assert_eq!(mirror.registries[m].tls, Some(Tls::Insecure));
    assert!(mirror.registries["quay.io"].cert_dir.is_some());
}

#[test]
fn attachments_go_along_where_the_file_says_so() {
    let entries = "target = \"m.example/{repository}\"\nreferrers = true\n[[sync]]\nsource = \"a.b/c\"\ntags = \"8\"\n";
    let mirror = toml(&format!("{entries}[[sync]]\nsource = \"a.b/d\"\ntags = \"8\"\nreferrers = false\n")).unwrap();
    assert_eq!(told(&mirror), ["4: a.b/c -> m.example/c: 8, All", "7: a.b/d -> m.example/d: 8"]);
}

#[test]
fn an_entry_names_both_ends_of_a_copy() {
    let mirror = regsync("sync:\n- {source: \"a.b/c:1\", target: \"d.e/f:2\", type: image}\n").unwrap();
    let ends = |named: &Named| {
        let (source, target) = mirror.entries[0].ends(named).unwrap();
        format!("{source} {target}")
    };
    assert_eq!(ends(&mirror.entries[0].selection.named[0]), "a.b/c:1 d.e/f:2");
    let digest = Digest::of(b"");
    assert_eq!(ends(&Named::Digest { source: digest.clone(), target: None }), format!("a.b/c@{digest} d.e/f@{digest}"));
    assert_eq!(
        ends(&Named::Digest { source: digest.clone(), target: Some("x".into()) }),
        format!("a.b/c@{digest} d.e/f:x")
    );
}

#[test]
fn the_documentation_shows_the_file_that_is_tested() {
    let documentation = include_str!("../../docs/sync.md");
    assert!(documentation.contains(include_str!("../../fixtures/sync/mirror.toml")));
}

#[test]
fn files_of_the_largest_size_take_no_more_than_linear_time() {
    // What this thread takes of a processor, whatever else the machine does meanwhile.
    let spent = || rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime).tv_sec;
    let before = spent();
    for unit in ["- - ", "a: ", "[[", "{a: {", "? ", "\"", "'", "x ", "\n#", "&a ", "*a ", "|\n ", "- x\n", ": ", "\t"]
    {
        let _ = skopeo(&unit.repeat(MAX_FILE / unit.len()));
    }
    assert!(spent() - before < 60, "{} s", spent() - before);
}

#[test]
fn skopeos_form_selects_what_skopeo_selects() {
    let mirror = skopeo(include_str!("../../fixtures/sync/skopeo.yaml")).unwrap();
    assert_eq!(mirror.form, Form::Skopeo);
    let mut sorted = SOURCE;
    sorted.sort_unstable();
    let (r, m) = ("registry.example.com", "mirror.example/team");
    assert_eq!(
        told(&mirror),
        [
            format!("3: {r}/busybox -> {m}/busybox: {}", sorted.join(" ")),
            format!("4: {r}/redis -> {m}/redis: 1.0 2.0 000000000000=None"),
            format!("9: {r}/nginx -> {m}/nginx: 1.13.1-alpine-perl"),
            format!("11: {r}/alpine -> {m}/alpine: 3.12.1 3.20 4.0.0 8 8.0.36 8.0.40 8.4.3 9.0.0"),
            format!("20: quay.io/coreos/etcd -> {m}/etcd: latest"),
            format!("24: docker.io/library/mysql -> {m}/mysql: 8"),
        ]
    );
    let options = &mirror.registries[r];
    assert_eq!((options.tls, mirror.registries["quay.io"].tls), (Some(Tls::Verified), Some(Tls::Insecure)));
    assert_eq!(options.credentials.as_ref().unwrap().password, "this is a secret");
    assert!(!format!("{mirror:?}").contains("this is a secret"));
}

#[test]
fn regsyncs_form_selects_what_regsync_selects() {
    let mirror = regsync(include_str!("../../fixtures/sync/regsync.yaml")).unwrap();
    assert_eq!(mirror.form, Form::Regsync);
    assert_eq!(
        told(&mirror),
        [
            "17: docker.io/library/busybox -> localhost:5000/library/busybox: latest=stable, DigestTags",
            "22: docker.io/library/alpine -> localhost:5000/library/alpine: 3.20 latest, only linux/amd64",
            "34: ghcr.io/org/tool -> localhost:5000/tool: 1.13.1-alpine-perl 1.13.3-alpine-perl 1.27-alpine 4.0.0 8 8.0.36 8.0.40 8.4.3 9.0.0, 2 platforms, All",
        ]
    );
    assert_eq!(mirror.registries["localhost:5000"].tls, Some(Tls::Disabled));
    let credentials = mirror.registries["docker.io"].credentials.clone().unwrap();
    assert_eq!((&*credentials.username, &*credentials.password), ("value of HUB_USER", "value of HUB_TOKEN"));
    let notes: Vec<_> = mirror.notes.iter().map(|note| (note.line, note.text.split('"').nth(1).unwrap())).collect();
    assert_eq!(notes, [(14, "parallel"), (12, "repoAuth"), (20, "interval"), (31, "schedule")]);
}

#[test]
fn what_is_not_supported_names_its_line() {
    let own = |block: &str| refusal(toml(&format!("target = \"m.example/{{name}}\"\n[[sync]]\n{block}\n")));
    assert!(own("source = \"a\"\ntag = \"1\"").starts_with("m.toml:4: key \"tag\": not supported; known are source"));
    assert!(own("source = \"a:1\"").starts_with("m.toml:3: "));
    assert!(own("source = \"a\"\ntags = [\n  \"ok\",\n  \"8.*\"]").starts_with("m.toml:6: \"8.*\" is no tag"));
    assert!(
        own("source = \"a\"\nregex = \"(\"").starts_with("m.toml:4: \"(\" is no regular expression: unclosed group")
    );
    assert!(own("source = \"a\"\nsemver = \"new\"").starts_with("m.toml:4: \"new\" is no range"));
    assert!(own("source = \"a\"\nnewest = 0").starts_with("m.toml:4: "));
    assert!(own("source = \"a\"\nplatforms = \"linux\"").starts_with("m.toml:4: invalid platform"));
    assert!(own("source = \"a\"\nsource = \"b\"").starts_with("m.toml:4: "));
    assert!(own("source = \"a\"\ntags = \"1\"\nexclude = \"2\"").starts_with("m.toml:3: key \"exclude\""));
    assert_eq!(
        refusal(toml("[[sync]]\nsource = \"a\"")).split(": ").nth(1),
        Some("key \"target\" is missing, here and at the top")
    );

    assert!(
        refusal(skopeo("a.b:\n  images:\n    x: []\n  bogus: 1\n"))
            .starts_with("s.yaml:4: key \"bogus\": not supported")
    );
    assert!(refusal(skopeo("a.b:\n  images:\n    x: 1\n")).starts_with("s.yaml:3: expected a list"));
    assert!(refusal(skopeo("a.b:\n  tls-verify: \"false\"\n")).starts_with("s.yaml:2: expected true or false"));
    assert!(refusal(skopeo("a.b:\n  images:\n    x: [\"a b\"]\n")).starts_with("s.yaml:3: \"a b\" is neither"));
    assert!(
        refusal(skopeo("a.b:\n  credentials: {identitytoken: x}\n")).starts_with("s.yaml:2: key \"identitytoken\"")
    );

    let step =
        |more: &str| refusal(regsync(&format!("sync:\n- source: a\n  target: b\n  type: repository\n  {more}\n")));
    assert!(step("backup: old").starts_with("r.yaml:5: key \"backup\": not supported: "));
    assert!(step("hooks: {}").starts_with("r.yaml:5: key \"hooks\": not supported"));
    assert!(step("tags: {sort: x}").starts_with("r.yaml:5: key \"sort\": not supported"));
    assert!(step("bogus: x").starts_with("r.yaml:5: key \"bogus\": not supported; known are source"));
    assert!(
        refusal(regsync("sync:\n- source: a\n  target: b\n  type: registry\n")).starts_with("r.yaml:4: key \"type\"")
    );
    assert!(refusal(regsync("version: 2\nsync: []\n")).starts_with("r.yaml:1: only version 1"));
    let template = "sync:\n- source: a\n  target: \"b/{{ .Sync.Source }}\"\n  type: repository\n";
    assert!(refusal(regsync(template)).starts_with("r.yaml:3: a template other than"));
    assert!(refusal(regsync(&template.replace(".Sync.Source", "env \\\"UNSET\\\""))).contains("\"UNSET\" is not set"));
}

#[test]
fn images_that_would_overwrite_each_other_are_refused() {
    let two = "quay.io:\n  images:\n    a/redis: [KIND]\ndocker.io:\n  images:\n    redis: [\"7\"]\n";
    assert!(skopeo(&two.replace("KIND", "\"6\"")).is_ok());
    let why = "s.yaml:6: target mirror.example/team/redis: line 3 puts other images there";
    assert_eq!(refusal(skopeo(&two.replace("KIND", "\"7\""))), why);
    assert_eq!(refusal(skopeo(&two.replace("KIND", ""))), why);
    assert!(read(Path::new("s"), two.replace("KIND", "").as_bytes(), &to("mirror.example", Scope::Whole)).is_ok());
    let same = "a.b:\n  images: {x: [\"1\"]}\n  images-by-semver: {x: \">=2\"}\n  images-by-tag-regex: {x: v}\n";
    assert_eq!(skopeo(same).unwrap().entries.len(), 3);
    assert!(
        refusal(toml("target = \"{registry}/{repository}\"\n[[sync]]\nsource = \"a.b/c\"\n"))
            .contains("its own target")
    );
    let rename =
        "sync:\n- {source: \"a:1\", target: \"b:x\", type: image}\n- {source: \"a:2\", target: \"b:x\", type: image}\n";
    assert!(refusal(regsync(rename)).starts_with("r.yaml:3: target docker.io/library/b: line 2"));
}

#[test]
fn the_destination_belongs_to_skopeos_form_alone() {
    assert!(refusal(read(Path::new("s"), b"a.b:\n  images: {x: []}\n", &nowhere())).contains("give a destination"));
    let context = to("m.example", Scope::Whole);
    let refused = read(Path::new("m"), b"[[sync]]\nsource = \"a\"\ntarget = \"b.c/d\"\n", &context);
    assert!(refusal(refused).contains("leave out the destination \"m.example\""));
}

#[test]
fn forms_are_told_apart_by_their_content() {
    for (text, is_toml) in [
        ("# c\n\n[[sync]]\n", true),
        ("target = \"a:b\"", true),
        ("a.b:\n  images: {x: []} # =\n", false),
        ("---\nversion: 1\n", false),
        ("{a: 1}", false),
        ("", false),
    ] {
        assert_eq!(looks_like_toml(text), is_toml, "{text}");
    }
}

#[test]
fn bounds_hold() {
    let large = vec![b'#'; MAX_FILE + 1];
    assert!(refusal(read(Path::new("f"), &large, &nowhere())).contains("larger than"));
    assert!(refusal(read(Path::new("f"), b"a: 1\nb: \xff\n", &nowhere())).starts_with("f:2: "));
    assert!(refusal(toml("")).contains("give a destination"));
    assert!(refusal(skopeo("# nothing\n")).contains("no image is named"));
    let regexes: String = (0..=MAX_PATTERNS).map(|n| format!("    r{n}: x\n")).collect();
    let many = refusal(skopeo(&format!("a.b:\n  images-by-tag-regex:\n{regexes}")));
    assert!(many.starts_with(&format!("s.yaml:{}: more than {MAX_PATTERNS} patterns", MAX_PATTERNS + 3)), "{many}");
    let deep = format!("target = {}", "[".repeat(10_000));
    assert!(refusal(toml(&deep)).starts_with("m.toml:1: "));
}

proptest::proptest! {
    #[test]
    fn no_content_makes_it_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
        let _ = read(Path::new("f"), &bytes, &to("m.example", Scope::Whole));
    }
}
