//! Certificates that `hosts.toml` names: whom a mirror is trusted by, and what the client shows it.

use std::fs;

use support::registry::Registry;

use crate::scene::{MIB, Scene, image};

#[test]
fn a_mirror_is_trusted_and_shown_a_certificate_as_its_file_says() {
    let (image, registry) = (image(MIB), Registry::start());
    registry.add("a/x", "1", &image);
    let made = rcgen::generate_simple_self_signed(vec!["client.test".into()]).unwrap();
    let mirror = Registry::start_tls_for(&made.cert.pem());
    mirror.add("a/x", "1", &image);
    let pull = |more: &str| {
        let scene = Scene::new();
        scene.hosts_toml(&registry.host(), &format!("[host.'{}']\n{more}", mirror.url()));
        let folder = scene.write("certs.d/x", "").parent().unwrap().join(registry.host());
        fs::write(folder.join("ca.pem"), mirror.certificate()).unwrap();
        fs::write(folder.join("c.pem"), made.cert.pem()).unwrap();
        fs::write(folder.join("k.pem"), made.signing_key.serialize_pem()).unwrap();
        fs::write(folder.join("both.pem"), made.cert.pem() + &made.signing_key.serialize_pem()).unwrap();
        scene.pull(&registry.name("a/x", "1"), &[]).success()
    };
    for right in [
        "ca = 'ca.pem'\nclient = [['c.pem', 'k.pem']]\n",
        "ca = ['ca.pem']\nclient = 'both.pem'\n",
        "skip_verify = true\nclient = [['both.pem', '']]\n",
    ] {
        assert_eq!(pull(right).from(&mirror.host()), image.size(), "{right}");
    }
    for wrong in ["ca = 'ca.pem'\n", "ca = 'c.pem'\nclient = [['c.pem', 'k.pem']]\n"] {
        let pulled = pull(wrong);
        assert_eq!((pulled.from(&mirror.host()), pulled.from(&registry.host())), (0, image.size()), "{wrong}");
        // TLS 1.3 refuses a client when its request is on the way already: that looks like a broken connection at first.
        let told: Vec<_> = pulled.events("left").into_iter().chain(pulled.events("retried")).collect();
        assert!(told.iter().any(|event| event.to_string().contains(&mirror.host())), "{wrong}: {told:?}");
    }
}
