//! Certificates for tests: an authority, the servers' and a client's.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, Error};
use rcgen::{ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose};

/// All in PEM.
#[derive(Debug)]
pub(crate) struct Certificates {
    pub(crate) ca: String,
    server: Pair,
    pub(crate) client: Pair,
}

/// A certificate and its key.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Certificates {
    pub(crate) fn new() -> Result<Certificates, Error> {
        let mut params = named("authority for tests", &[])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let pair = |mut params: CertificateParams, usages: &[ExtendedKeyUsagePurpose]| {
            params.extended_key_usages = usages.to_vec();
            let key = KeyPair::generate()?;
            let certificate = params.signed_by(&key, &ca)?.pem();
            Ok::<_, Error>(Pair { certificate, key: key.serialize_pem() })
        };
        let (server, client) = (ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth);
        Ok(Certificates {
            // etcd's gateway is a client of its own server, with the server's certificate.
            server: pair(named("server for tests", &["127.0.0.1", "localhost"])?, &[server, client.clone()])?,
            client: pair(named("client for tests", &[])?, &[client])?,
            ca: ca.pem(),
        })
    }

    pub(crate) fn write(&self, folder: &Path) -> std::io::Result<()> {
        for (name, text) in [
            ("ca.pem", &self.ca),
            ("server.pem", &self.server.certificate),
            ("server-key.pem", &self.server.key),
            ("client.pem", &self.client.certificate),
            ("client-key.pem", &self.client.key),
        ] {
            std::fs::write(folder.join(name), text)?;
        }
        Ok(())
    }
}

fn named(name: &str, addresses: &[&str]) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::new(addresses.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params)
}
