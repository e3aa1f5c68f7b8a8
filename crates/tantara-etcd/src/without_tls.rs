//! Takes the place of `tls.rs` without the feature `tls`: no endpoint uses TLS.

use tonic::transport::{Endpoint, Error};

/// There are no settings of TLS.
#[derive(Clone, Debug)]
pub(crate) enum Tls {}

/// Never called: without the feature, no endpoint is secure.
pub(crate) fn secure(endpoint: Endpoint, _: Option<&Tls>) -> Result<Endpoint, Error> {
    Ok(endpoint)
}
