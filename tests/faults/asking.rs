//! Small questions (tags, digests, the catalog) to a registry that misbehaves: they end too, and are asked again.

use support::command::{Layerpull, Output};
use support::images::Image;
use support::registry::{Fault, Registry, Reply, Stall, Times, When};

fn registry() -> Registry {
    let registry = Registry::start();
    registry.add("library/x", "1", &Image::tiny("x"));
    registry
}

fn ask(registry: &Registry, command: &str, patience: &str) -> Output {
    let what = match command {
        "catalog" => registry.host(),
        "tags" => format!("{}/library/x", registry.host()),
        _ => registry.name("library/x", "1"),
    };
    Layerpull::new().args([command, "--stall-timeout", patience, "--retries", "2", &what]).run()
}

const COMMANDS: [&str; 6] = ["catalog", "tags", "digest", "manifest", "inspect", "layers"];

#[test]
fn a_question_that_gets_no_answer_ends() {
    for command in COMMANDS {
        let registry = registry();
        registry.rule(When::any(), Times::Always, Fault::StallBeforeHead(Stall::Ever));
        let output = ask(&registry, command, "500ms").code(5);
        assert!(output.stderr.contains("nothing received for 0.5 s"), "{command}: {}", output.stderr);
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_question_that_fails_in_bursts_is_asked_again() {
    for command in COMMANDS {
        let registry = registry();
        registry.rule(When::any(), Times::Count(2), Fault::Reply(Reply::status(503)));
        let output = ask(&registry, command, "60s").success();
        assert!(!output.stdout.is_empty(), "{command}");
        assert_eq!(registry.requests().iter().filter(|r| r.status == 503).count(), 2, "{command}");
    }
}
