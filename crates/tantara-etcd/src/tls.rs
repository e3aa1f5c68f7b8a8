//! [`Tls`]: how to use TLS. Without the feature `tls`, `without_tls.rs` takes the place of this
//! file.

use std::fmt;

use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Error, Identity};

/// How to use TLS: the trusted authorities, and the client's own certificate. The default trusts
/// the authorities that the system trusts.
#[derive(Clone, Default)]
pub struct Tls {
    ca: Option<Vec<u8>>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
    server_name: Option<String>,
}

impl Tls {
    /// The default.
    #[must_use]
    pub fn new() -> Tls {
        Tls::default()
    }

    /// Trusts this certificate authority, in PEM, and no other one.
    #[must_use]
    pub fn ca_pem(mut self, ca: impl Into<Vec<u8>>) -> Tls {
        self.ca = Some(ca.into());
        self
    }

    /// Sets the client's own certificate and its key, in PEM.
    #[must_use]
    pub fn identity_pem(mut self, certificate: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Tls {
        self.identity = Some((certificate.into(), key.into()));
        self
    }

    /// Sets the name in the servers' certificates, if it is not the host of the endpoint.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Tls {
        self.server_name = Some(name.into());
        self
    }
}

/// The endpoint, to be connected with TLS.
pub(crate) fn secure(endpoint: Endpoint, tls: Option<&Tls>) -> Result<Endpoint, Error> {
    let Tls { ca, identity, server_name } = tls.cloned().unwrap_or_default();
    let mut config = ClientTlsConfig::new();
    config = match ca {
        Some(ca) => config.ca_certificate(Certificate::from_pem(ca)),
        None => config.with_native_roots(),
    };
    if let Some((certificate, key)) = identity {
        config = config.identity(Identity::from_pem(certificate, key));
    }
    if let Some(name) = server_name {
        config = config.domain_name(name);
    }
    endpoint.tls_config(config)
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("ca", &self.ca.is_some())
            .field("identity", &self.identity.is_some())
            .field("server_name", &self.server_name)
            .finish()
    }
}
