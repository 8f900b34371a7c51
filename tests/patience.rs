//! Small requests are repeated like large ones.

use support::command::Layerpull;
use support::images::{Blob, Image};
use support::registry::{Fault, Registry, Reply, Times, When};

#[test]
fn commands_that_only_look_forget_a_server_that_stumbles_once() {
    let registry = Registry::start();
    let image = Image::build().layer(Blob::noise(1, 1000)).finish();
    registry.add("a/b", "1", &image);
    let (name, digest) = (registry.name("a/b", "1"), image.digest().to_string());
    let looks: [(&[&str], &str); 6] = [
        (&["tags", &name], "1\n"),
        (&["catalog", &registry.host()], "a/b\n"),
        (&["digest", &name], &digest),
        (&["manifest", &name], "schemaVersion"),
        (&["inspect", &name], &digest),
        (&["layers", &name], "1 layer"),
    ];
    for (words, expected) in looks {
        registry.behave();
        registry.rule(When::any().get(), Times::Once, Fault::Reply(Reply::status(503)));
        registry.rule(When::any().head(), Times::Once, Fault::Reply(Reply::status(502)));
        let output = Layerpull::new().args(words).run().success();
        assert!(output.stdout.contains(expected), "{words:?}: {}", output.stdout);
        assert!(output.stderr.contains("503") || output.stderr.contains("502"), "{words:?}: {}", output.stderr);
    }
}
