//! What no other step builds: optional features, a build without TLS, the documentation as docs.rs
//! builds it.

use crate::run::{Outcome, Step, cargo};

pub(crate) fn test() -> Outcome {
    Step::new("tests of the feature `serde`").run(|| {
        let test = ["test", "--quiet", "--features", "serde", "--package"];
        cargo(&[&test[..], &["tantara", "--test", "serde"]].concat()).run()?;
        cargo(&[&test[..], &["tantara-etcd", "--lib", "list::"]].concat()).run()
    })?;
    Step::new("tantara-etcd without TLS: lints, unit tests").run(|| {
        let package = ["--quiet", "--package", "tantara-etcd", "--no-default-features"];
        cargo(&[&["clippy"], &package[..], &["--all-targets", "--", "--deny", "warnings"]].concat()).run()?;
        cargo(&[&["test"], &package[..], &["--lib"]].concat()).run()
    })?;
    Step::new("documentation of a platform without events between processes").run(|| {
        cargo(&["doc", "--quiet", "--no-deps", "--package", "tantara"])
            .flags("--cfg tantara_portable", "portable")
            .env("RUSTDOCFLAGS", "--cfg tantara_portable --deny warnings")
            .run()
    })?;
    documentation()
}

/// With badges of features and platforms, which are not stable yet.
fn documentation() -> Outcome {
    let step = Step::new("documentation as on docs.rs");
    if !cargo(&["+nightly", "--version"]).succeeds() {
        return step.skip("there is no nightly toolchain (rustup toolchain install nightly)");
    }
    step.run(|| {
        let packages = ["--package", "tantara", "--package", "tantara-etcd"];
        cargo(&[&["+nightly", "doc", "--quiet", "--no-deps", "--all-features"], &packages[..]].concat())
            .flags("", "docsrs")
            .env("RUSTDOCFLAGS", "--cfg docsrs --deny warnings")
            .run()
    })
}
