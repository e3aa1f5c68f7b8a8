//! A member's JSON gateway: etcd's requests in plain HTTP, so that what is tested is not also what
//! tests.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};
use serde_json::{Value, json};

use crate::lock;

/// A member that does not answer within this time is as good as dead.
const PATIENCE: Duration = Duration::from_secs(5);
/// Codes of gRPC's that pass by themselves: deadline exceeded, unavailable, unauthenticated.
const PASSING: [i64; 3] = [4, 14, 16];

/// Where to ask, and as whom.
#[derive(Debug)]
pub(crate) struct Gateway {
    port: u16,
    /// The password of root, once the servers ask for users.
    password: OnceLock<String>,
    token: Mutex<Option<String>>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Another try may help.
    Passing(String),
    /// The request is refused.
    Refused(String),
}

impl Failure {
    pub(crate) fn into_text(self) -> String {
        match self {
            Failure::Passing(text) | Failure::Refused(text) => text,
        }
    }
}

impl Gateway {
    pub(crate) fn new(port: u16) -> Gateway {
        Gateway { port, password: OnceLock::new(), token: Mutex::new(None) }
    }

    /// From now on, asks as root where asking as nobody is not enough.
    pub(crate) fn become_root(&self, password: &str) {
        self.password.get_or_init(|| password.to_owned());
    }

    pub(crate) fn ask(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let token = lock(&self.token).clone();
        let answer = self.post(path, body, token.as_deref());
        // Tokens expire, and a server that has been started again knows none.
        let (Err(_), Some(password)) = (&answer, self.password.get()) else { return answer };
        let login = self.post("auth/authenticate", &json!({"name": "root", "password": password}), None)?;
        let token = login["token"].as_str().map(str::to_owned);
        lock(&self.token).clone_from(&token);
        self.post(path, body, token.as_deref())
    }

    /// The current revision, agreed on by a majority.
    pub(crate) fn revision(&self) -> Result<i64, Failure> {
        self.ask("kv/range", &json!({"key": encode("\0"), "count_only": true}))
            .map(|a| number(&a["header"]["revision"]))
    }

    /// Whether this member takes another one for a part of the cluster.
    pub(crate) fn lists_member(&self, id: u64) -> Result<bool, Failure> {
        let answer = self.ask("cluster/member/list", &json!({}))?;
        let mut ids = answer["members"].as_array().into_iter().flatten().map(|member| &member["ID"]);
        Ok(ids.any(|listed| listed.as_str() == Some(id.to_string().as_str())))
    }

    /// The sum of a gauge's values.
    pub(crate) fn gauge(&self, name: &str) -> Result<f64, Failure> {
        let (_, text) = self.http("GET /metrics", None, "").map_err(|error| Failure::Passing(error.to_string()))?;
        let values = text.lines().filter_map(|line| line.strip_prefix(name)?.split(' ').nth(1)?.parse::<f64>().ok());
        Ok(values.sum())
    }

    fn post(&self, path: &str, body: &Value, token: Option<&str>) -> Result<Value, Failure> {
        let failed = |what: String| Failure::Passing(format!("{path} at port {}: {what}", self.port));
        let (status, text) = self
            .http(&format!("POST /v3/{path}"), token, &body.to_string())
            .map_err(|error| failed(error.to_string()))?;
        let answer: Value = serde_json::from_str(&text).map_err(|error| failed(format!("{error}: {status} {text}")))?;
        if status == 200 {
            return Ok(answer);
        }
        match answer["code"].as_i64() {
            Some(code) if !PASSING.contains(&code) => Err(Failure::Refused(format!("{path}: {text}"))),
            _ => Err(failed(text)),
        }
    }

    /// HTTP of version 1.0: the connection ends with the answer, which comes in one piece.
    fn http(&self, request: &str, token: Option<&str>, body: &str) -> io::Result<(u16, String)> {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let token = token.map_or_else(String::new, |token| format!("Authorization: {token}\r\n"));
        let length = body.len();
        stream.write_all(format!("{request} HTTP/1.0\r\n{token}Content-Length: {length}\r\n\r\n{body}").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Ok((status.ok_or(io::ErrorKind::InvalidData)?, body.to_owned()))
    }
}

/// Bytes, as etcd's JSON has them.
pub(crate) fn encode(bytes: impl AsRef<[u8]>) -> String {
    BASE64_STANDARD.encode(bytes)
}

/// What [`encode`] has made; what is empty is left out of etcd's JSON.
pub(crate) fn decode(value: &Value) -> Vec<u8> {
    BASE64_STANDARD.decode(value.as_str().unwrap_or_default()).expect("etcd's JSON has bytes in base64")
}

/// A number, as etcd's JSON has it: as text, and left out where it is zero.
pub(crate) fn number(value: &Value) -> i64 {
    value.as_str().map_or(0, |text| text.parse::<i64>().or_else(|_| text.parse().map(u64::cast_signed)).unwrap_or(0))
}

/// The keys that begin with this, as fields of a request; all keys, if it is empty.
pub(crate) fn range(prefix: &str) -> Value {
    let mut end = prefix.as_bytes().to_vec();
    while end.last() == Some(&u8::MAX) {
        end.pop();
    }
    match end.last_mut() {
        Some(last) => *last += 1,
        None => return json!({"key": encode("\0"), "range_end": encode("\0")}),
    }
    json!({"key": encode(prefix), "range_end": encode(end)})
}
