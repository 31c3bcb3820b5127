//! The way to the running daemon: HTTP over its socket.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::{Client, Method, Response, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use smtp::RemoteText;

use super::exit::{Exit, Failure};
use crate::control::api::ErrorAnswer;

/// The socket says where; HTTP wants a name all the same.
const BASE: &str = "http://staunch/";
/// Our choice: a daemon that is alive answers at once.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Our choice: longest silence in an answer; `explain --connect` waits for strangers.
const SILENCE_MAX: Duration = Duration::from_secs(600);
/// Our choice: longest answer that is held as a whole, and longest line of a streamed one.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// A client of one daemon.
#[derive(Debug)]
pub(super) struct AdminClient {
    client: Client,
    socket: PathBuf,
}

/// An answer that comes piece by piece.
#[derive(Debug)]
pub(super) struct AnswerStream {
    response: Response,
    socket: PathBuf,
    rest: BytesMut,
}

impl AdminClient {
    /// Prepares a client; nothing is opened yet.
    ///
    /// # Errors
    ///
    /// Only what no machine should show.
    pub(super) fn new(socket: &Path) -> Result<Self, Failure> {
        let client = plain_client(socket)
            .map_err(|error| Failure::new(Exit::TemporaryFailure, format!("client: {error}")))?;
        Ok(Self { client, socket: socket.to_owned() })
    }

    /// Asks for one JSON value.
    ///
    /// # Errors
    ///
    /// [`Failure`]: not reachable, or the daemon's word for "no".
    pub(super) async fn get(&self, path: &[&str], query: Query<'_>) -> Result<Value, Failure> {
        self.ask(Method::GET, path, query).await?.value().await
    }

    /// Asks for a state, which the daemon has to tell also where HTTP calls it an error.
    ///
    /// # Errors
    ///
    /// As [`AdminClient::get`], but for 503.
    pub(super) async fn state(&self, path: &[&str]) -> Result<Value, Failure> {
        let answer = self.client.get(url(path, &[])?).send().await;
        match answer {
            Ok(response) if response.status() == StatusCode::SERVICE_UNAVAILABLE => {
                self.stream_of(response).value().await
            }
            answer => self.check(answer).await?.value().await,
        }
    }

    fn stream_of(&self, response: Response) -> AnswerStream {
        AnswerStream { response, socket: self.socket.clone(), rest: BytesMut::new() }
    }

    /// Asks for a stream.
    ///
    /// # Errors
    ///
    /// As [`AdminClient::get`].
    pub(super) async fn stream(
        &self,
        path: &[&str],
        query: Query<'_>,
    ) -> Result<AnswerStream, Failure> {
        self.ask(Method::GET, path, query).await
    }

    /// Has something done to what `path` names.
    ///
    /// # Errors
    ///
    /// As [`AdminClient::get`].
    pub(super) async fn act(&self, method: Method, path: &[&str]) -> Result<Value, Failure> {
        self.ask(method, path, &[]).await?.value().await
    }

    /// Has something done to what `body` describes.
    ///
    /// # Errors
    ///
    /// As [`AdminClient::get`].
    pub(super) async fn post(
        &self,
        path: &[&str],
        body: &impl Serialize,
    ) -> Result<Value, Failure> {
        let request = self.client.post(url(path, &[])?).json(body);
        self.check(request.send().await).await?.value().await
    }

    /// Sends octets, of whatever form.
    ///
    /// # Errors
    ///
    /// As [`AdminClient::get`].
    pub(super) async fn send(&self, path: &[&str], body: Vec<u8>) -> Result<Value, Failure> {
        let request = self.client.post(url(path, &[])?).body(body);
        self.check(request.send().await).await?.value().await
    }

    async fn ask(
        &self,
        method: Method,
        path: &[&str],
        query: Query<'_>,
    ) -> Result<AnswerStream, Failure> {
        let request = self.client.request(method, url(path, query)?);
        self.check(request.send().await).await
    }

    /// An answer that is no "no".
    async fn check(&self, answer: reqwest::Result<Response>) -> Result<AnswerStream, Failure> {
        let response = answer.map_err(|error| unreachable(&self.socket, &error))?;
        let status = response.status();
        let mut stream = self.stream_of(response);
        if status.is_success() {
            return Ok(stream);
        }
        let body = stream.whole().await.unwrap_or_default();
        let text = match serde_json::from_slice::<ErrorAnswer>(&body) {
            // Of a configuration each mistake is a line.
            Ok(answer) if status == StatusCode::UNPROCESSABLE_ENTITY => {
                let lines = answer.error.lines().map(|line| RemoteText::new(line).to_string());
                lines.collect::<Vec<_>>().join("\n")
            }
            Ok(answer) => RemoteText::new(&answer.error).to_string(),
            // Whatever was said.
            Err(_) => RemoteText::from_bytes(&body).to_string(),
        };
        let text = if text.is_empty() { status.to_string() } else { text };
        Err(Failure::new(exit_of(status), text))
    }
}

/// What a request has room for (http::Uri), with some to spare.
const URL_BYTES_MAX: usize = 60_000;

/// Parameters behind the `?`; those without a value are left out.
pub(super) type Query<'a> = &'a [(&'a str, Option<&'a str>)];

fn url(path: &[&str], query: Query<'_>) -> Result<Url, Failure> {
    let bad = || Failure::new(Exit::BadInput, "cannot be part of a request");
    let mut url = Url::parse(BASE).map_err(|_| bad())?;
    url.path_segments_mut().map_err(|()| bad())?.clear().extend(path);
    for (name, value) in query {
        if let Some(value) = value {
            url.query_pairs_mut().append_pair(name, value);
        }
    }
    let length = url.as_str().len();
    if length > URL_BYTES_MAX {
        let text = format!("the arguments are too long: {length} bytes");
        return Err(Failure::new(Exit::BadInput, text));
    }
    Ok(url)
}

fn plain_client(socket: &Path) -> reqwest::Result<Client> {
    Client::builder()
        .unix_socket(socket)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(SILENCE_MAX)
        .build()
}

fn unreachable(socket: &Path, error: &reqwest::Error) -> Failure {
    // The innermost cause: the layers above it say nothing that helps.
    let mut cause: &(dyn Error + 'static) = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let socket = socket.display();
    let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
    if kind == Some(io::ErrorKind::PermissionDenied) {
        let text = format!(
            "{socket}: you may not ask the daemon: become root, or a member of the group that owns \
             the socket (staunch-admin)"
        );
        return Failure::new(Exit::NoPermission, text);
    }
    Failure::new(Exit::Unavailable, format!("the daemon is not reachable at {socket}: {cause}"))
}

fn exit_of(status: StatusCode) -> Exit {
    match status {
        // What the daemon says of a configuration.
        StatusCode::UNPROCESSABLE_ENTITY => Exit::Config,
        StatusCode::NOT_FOUND | StatusCode::CONFLICT | StatusCode::BAD_GATEWAY => Exit::No,
        _ if status.is_client_error() => Exit::BadInput,
        _ => Exit::TemporaryFailure,
    }
}

impl AnswerStream {
    /// The next piece, of any length; `None` at the end.
    ///
    /// # Errors
    ///
    /// [`Failure`] if the daemon went away.
    pub(super) async fn piece(&mut self) -> Result<Option<Bytes>, Failure> {
        self.response.chunk().await.map_err(|error| unreachable(&self.socket, &error))
    }

    /// The next line as JSON; `None` at the end.
    ///
    /// # Errors
    ///
    /// [`Failure`] if the daemon went away or speaks another language.
    pub(super) async fn line(&mut self) -> Result<Option<Value>, Failure> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.rest) {
                let line = self.rest.split_to(end + 1);
                return parse(&line).map(Some);
            }
            if self.rest.len() > ANSWER_BYTES_MAX {
                return Err(foreign("a line without end"));
            }
            match self.piece().await? {
                Some(piece) => self.rest.extend_from_slice(&piece),
                None if self.rest.is_empty() => return Ok(None),
                None => return parse(&self.rest.split()).map(Some),
            }
        }
    }

    async fn value(mut self) -> Result<Value, Failure> {
        let body = self.whole().await?;
        // An answer may be no more than "done".
        if body.is_empty() { Ok(Value::Null) } else { parse(&body) }
    }

    async fn whole(&mut self) -> Result<BytesMut, Failure> {
        while let Some(piece) = self.piece().await? {
            self.rest.extend_from_slice(&piece);
            if self.rest.len() > ANSWER_BYTES_MAX {
                return Err(foreign("too long"));
            }
        }
        Ok(self.rest.split())
    }
}

/// An answer as what it was asked for.
///
/// # Errors
///
/// [`Failure`] when the daemon is of another version, and answers otherwise.
pub(super) fn read<T: DeserializeOwned>(answer: &Value) -> Result<T, Failure> {
    T::deserialize(answer).map_err(|error| foreign(&error.to_string()))
}

fn parse(bytes: &[u8]) -> Result<Value, Failure> {
    serde_json::from_slice(bytes).map_err(|error| foreign(&error.to_string()))
}

/// Another version of the program, or another program.
fn foreign(what: &str) -> Failure {
    Failure::new(Exit::Unavailable, format!("the daemon's answer is not understood: {what}"))
}

/// Runs `ask` with a client of the daemon at `socket`.
///
/// # Errors
///
/// Those of `ask`.
pub(super) fn with_client<T>(
    socket: &Path,
    ask: impl AsyncFnOnce(AdminClient) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let client = AdminClient::new(socket)?;
    runtime()?.block_on(ask(client))
}

/// For one question a thread is enough.
///
/// # Errors
///
/// When the system has no descriptors left.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::TemporaryFailure, format!("runtime: {error}")))
}

#[cfg(test)]
mod tests {
    use std::future::IntoFuture;

    use axum::Router;
    use axum::http::Uri;
    use axum::routing::{get, post};

    use super::*;

    /// Runs `ask` against a daemon that knows a few answers.
    async fn asked(ask: impl AsyncFnOnce(AdminClient)) {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("admin.sock");
        let router = Router::new()
            .route("/lines", get(async || "{\"n\":1}\n{\"n\":2}\n{\"n\":3}"))
            .route("/echo", post(async |body: String| body))
            .route("/uri/{part}", get(async |uri: Uri| format!("{:?}", uri.to_string())))
            .route("/done", post(async || ()))
            .route("/busy", get(async || (StatusCode::SERVICE_UNAVAILABLE, "not ready\u{1b}")))
            .route(
                "/gone",
                get(async || (StatusCode::NOT_FOUND, "{\"error\":\"no such message\"}")),
            )
            .route("/bad", get(async || (StatusCode::BAD_REQUEST, "")))
            .route("/html", get(async || "<p>"));
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let server = axum::serve(listener, router).into_future();
        tokio::select! {
            ended = server => panic!("{ended:?}"),
            () = ask(AdminClient::new(&socket).unwrap()) => {}
        }
    }

    #[tokio::test]
    async fn lines_come_one_by_one_also_the_last_without_an_end() {
        asked(async |client| {
            let mut stream = client.stream(&["lines"], &[]).await.unwrap();
            let mut numbers = Vec::new();
            while let Some(line) = stream.line().await.unwrap() {
                numbers.push(line["n"].as_u64().unwrap());
            }
            assert_eq!(numbers, [1, 2, 3]);
        })
        .await;
    }

    #[tokio::test]
    async fn what_is_asked_arrives_as_it_was_meant() {
        asked(async |client| {
            let body = serde_json::json!({ "ids": ["a"] });
            assert_eq!(client.post(&["echo"], &body).await.unwrap(), body);
            let query = [("domain", Some("a&b")), ("state", None)];
            let uri = client.get(&["uri", "a/b?c"], &query).await.unwrap();
            assert_eq!(uri, "/uri/a%2Fb%3Fc?domain=a%26b");
            assert_eq!(client.act(Method::POST, &["done"]).await.unwrap(), Value::Null);
        })
        .await;
    }

    #[tokio::test]
    async fn a_no_has_its_exit_code_and_its_words() {
        asked(async |client| {
            let cases = [
                ("busy", Exit::TemporaryFailure, "not ready\\u{1b}"),
                ("gone", Exit::No, "no such message"),
                ("bad", Exit::BadInput, "400 Bad Request"),
                ("nowhere", Exit::No, "404 Not Found"),
                (
                    "html",
                    Exit::Unavailable,
                    "the daemon's answer is not understood: expected value at line 1 column 1",
                ),
            ];
            for (path, exit, text) in cases {
                let failure = client.get(&[path], &[]).await.unwrap_err();
                assert_eq!(failure, Failure::new(exit, text), "{path}");
            }
        })
        .await;
    }

    #[tokio::test]
    async fn a_daemon_that_is_away_is_named_by_its_socket() {
        let client = AdminClient::new(Path::new("/nonexistent/admin.sock")).unwrap();
        let failure = client.get(&["readyz"], &[]).await.unwrap_err();
        let text = "the daemon is not reachable at /nonexistent/admin.sock: \
                    No such file or directory (os error 2)";
        assert_eq!(failure, Failure::new(Exit::Unavailable, text));
    }
}
