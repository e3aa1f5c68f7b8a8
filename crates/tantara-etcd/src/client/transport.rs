//! Requests and answers over one gRPC channel.
//!
//! Messages are encoded before they reach tonic and decoded after they leave it. The code that
//! sends them is thus compiled once and not once for each type of message, which takes a third off
//! the time of an optimised build of this crate.

use std::marker::PhantomData;

use prost::Message;
use prost::bytes::{Buf, BufMut, Bytes};
use tokio_stream::{Stream, StreamExt};
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, IntoStreamingRequest, Request, Status, Streaming};

use crate::client::proto::{HealthCheck, Rpc};
use crate::error::reason;

/// A request as it is sent.
#[derive(Clone, Debug)]
pub(crate) struct Encoded {
    path: &'static str,
    message: Bytes,
}

impl Encoded {
    pub(crate) fn new<R: Rpc>(request: &R) -> Encoded {
        Encoded { path: R::PATH, message: request.encode_to_vec().into() }
    }
}

/// Decodes an answer, or fails as tonic fails for an answer that cannot be decoded.
pub(crate) fn decode<A: Message + Default>(answer: Bytes) -> Result<A, Status> {
    A::decode(answer).map_err(|error| Status::internal(error.to_string()))
}

/// Sends requests over one gRPC channel, with the token of the login.
#[derive(Clone, Debug)]
pub(crate) struct Transport {
    channel: Channel,
    token: Option<MetadataValue<Ascii>>,
}

impl Transport {
    pub(crate) fn new(channel: Channel) -> Transport {
        Transport { channel, token: None }
    }

    pub(crate) fn log_in(&mut self, token: &str) {
        self.token = token.parse().ok().map(|mut token: MetadataValue<Ascii>| {
            // Hidden from `Debug`.
            token.set_sensitive(true);
            token
        });
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        // A member that is cut off from the leader fails the request instead of queuing it.
        request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
        request
    }

    async fn ready(&self) -> Result<Grpc<Channel>, Status> {
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await.map_err(|error| Status::unavailable(reason(&error)))?;
        Ok(grpc)
    }

    pub(crate) async fn send(&self, request: Encoded) -> Result<Bytes, Status> {
        let path = PathAndQuery::from_static(request.path);
        let answer = self.ready().await?.unary(self.request(request.message), path, Raw).await?;
        Ok(answer.into_inner())
    }

    pub(crate) async fn unary<R: Rpc>(&self, request: &R) -> Result<R::Answer, Status> {
        decode(self.send(Encoded::new(request)).await?)
    }

    /// Opens a stream of requests and answers.
    pub(crate) async fn stream<Q: Message + 'static, A>(
        &self,
        path: &'static str,
        requests: impl Stream<Item = Q> + Send + 'static,
    ) -> Result<Answers<A>, Status> {
        let requests = requests.map(|request| Bytes::from(request.encode_to_vec()));
        let request = self.request(requests).into_streaming_request();
        let answers = self.ready().await?.streaming(request, PathAndQuery::from_static(path), Raw).await?;
        Ok(Answers { messages: answers.into_inner(), kind: PhantomData })
    }

    /// Checks that the member serves and knows a leader. A refusal for another reason counts as an
    /// answer.
    pub(crate) async fn check_health(&self) -> Result<(), Status> {
        match self.unary(&HealthCheck {}).await {
            Ok(_) => Ok(()),
            // A proxy in front of etcd may not implement it.
            Err(status) if matches!(status.code(), Code::Unimplemented | Code::NotFound) => Ok(()),
            Err(status) if matches!(status.code(), Code::PermissionDenied | Code::Unauthenticated) => Ok(()),
            Err(status) => Err(status),
        }
    }
}

/// A stream of answers.
#[derive(Debug)]
pub(crate) struct Answers<A> {
    messages: Streaming<Bytes>,
    kind: PhantomData<fn() -> A>,
}

impl<A: Message + Default> Answers<A> {
    /// The next answer, or `None` at the end of the stream. Cancel safe.
    pub(crate) async fn message(&mut self) -> Result<Option<A>, Status> {
        self.messages.message().await?.map(decode).transpose()
    }
}

/// Leaves messages as they are.
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
