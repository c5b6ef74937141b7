//! Reaching into a container through its engine's API, as Docker defined it and Podman speaks it.
//!
//! Of the API only what is here is ever asked, and only about the container of the configuration.
//!
//! <https://docs.docker.com/reference/api/engine/version/v1.43/>

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::Full;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};

use super::command::Transcript;
use super::exchange::{Answer, ask, quote};
use super::socket;
use crate::config::{ContainerAction, Signal};
use crate::event::Event;
use crate::failure::{Failure, Step};

/// Send the signal, or run the command to its end
pub(super) async fn reach(
    engine: &Path,
    name: &str,
    action: &ContainerAction,
    limit: Duration,
    report: &(dyn Fn(Event) + Send + Sync),
) -> Result<(), Failure> {
    let container = Container { engine, name };
    let (reached, left) = match action {
        ContainerAction::Kill(signal) => (timeout(limit, container.kill(*signal)).await, ""),
        ContainerAction::Exec(argv) => {
            let program = argv.first().map_or("", String::as_str);
            let mut transcript = Transcript::new(Path::new(program), report);
            let done = timeout(limit, container.exec(argv, &mut transcript)).await;
            transcript.report_line();
            // There is no request that ends it.
            (done, ", and the command may still run in it")
        }
    };
    reached.unwrap_or_else(|_| Err(container.failed(&format!("not done within {limit:?}{left}"))))
}

/// A container that an engine may have
#[derive(Clone, Copy)]
struct Container<'a> {
    engine: &'a Path,
    name: &'a str,
}

impl Container<'_> {
    /// <https://docs.docker.com/reference/api/engine/version/v1.43/#tag/Container/operation/ContainerKill>
    async fn kill(self, signal: Signal) -> Result<(), Failure> {
        let signal = match signal {
            Signal::Hup => "SIGHUP",
            Signal::Usr1 => "SIGUSR1",
            Signal::Usr2 => "SIGUSR2",
            Signal::Winch => "SIGWINCH",
        };
        let path = format!("/containers/{}/kill?signal={signal}", self.name);
        self.post(&path, &()).await.map(drop)
    }

    /// <https://docs.docker.com/reference/api/engine/version/v1.43/#tag/Exec>
    async fn exec(self, argv: &[String], transcript: &mut Transcript<'_>) -> Result<(), Failure> {
        #[derive(Serialize)]
        #[serde(rename_all = "PascalCase")]
        struct Create<'a> {
            attach_stdout: bool,
            attach_stderr: bool,
            cmd: &'a [String],
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Created {
            id: String,
        }
        #[derive(Serialize)]
        #[serde(rename_all = "PascalCase")]
        struct Start {
            detach: bool,
            tty: bool,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct State {
            running: bool,
            exit_code: Option<i64>,
        }
        let path = format!("/containers/{}/exec", self.name);
        let create = Create { attach_stdout: true, attach_stderr: true, cmd: argv };
        let Created { id } = self.parse(&mut self.post(&path, &create).await?).await?;
        // It becomes a part of the next path.
        if id.is_empty() || id.len() > 128 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(self.failed("the engine gave no identifier of the command"));
        }
        let start = Start { detach: false, tty: false };
        let mut output = self.post(&format!("/exec/{id}/start"), &start).await?;
        let mut frames = Frames::default();
        while let Some(piece) = output.piece().await.map_err(|error| self.failed(&error))? {
            frames.take(&piece, |text| transcript.take(text));
        }
        loop {
            let mut answer = self.send(Method::GET, &format!("/exec/{id}/json"), None).await?;
            match self.parse::<State>(&mut answer).await? {
                State { running: true, .. } => sleep(POLL).await,
                State { exit_code: Some(0), .. } => return Ok(()),
                State { exit_code: Some(code), .. } => {
                    let said = transcript.last_lines();
                    return Err(self.failed(&format!("it exited with status {code}{said}")));
                }
                State { exit_code: None, .. } => {
                    return Err(self.failed("the engine does not say how the command ended"));
                }
            }
        }
    }

    async fn post(self, path: &str, body: &impl Serialize) -> Result<Answer, Failure> {
        let body = serde_json::to_vec(body).map_err(|error| self.failed(&error.to_string()))?;
        self.send(Method::POST, path, Some(body)).await
    }

    async fn send(
        self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<Answer, Failure> {
        let mut request = Request::builder().method(method).uri(path).header("Host", "docker");
        if body.is_some() {
            request = request.header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let request = request
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|error| self.failed(&error.to_string()))?;
        let stream = socket::connect(self.engine).await?;
        let mut answer = ask(stream, request).await.map_err(|error| self.failed(&error))?;
        if answer.status.is_success() {
            return Ok(answer);
        }
        let said = quote(&answer.body().await.map_err(|error| self.failed(&error))?);
        Err(match answer.status {
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => Failure::needs_operator(
                Step::Reload,
                format!("the engine refuses it for the container `{}`{said}", self.name),
                "permit POST to /containers/NAME/kill, /containers/NAME/exec and /exec/ID/start",
            ),
            StatusCode::NOT_FOUND => self.failed(&format!("there is none{said}")),
            status => self.failed(&format!("the engine answered {status}{said}")),
        })
    }

    async fn parse<T: DeserializeOwned>(self, answer: &mut Answer) -> Result<T, Failure> {
        let body = answer.body().await.map_err(|error| self.failed(&error))?;
        serde_json::from_slice(&body).map_err(|error| {
            self.failed(&format!("the engine's answer is not understood: {error}{}", quote(&body)))
        })
    }

    fn failed(self, what: &str) -> Failure {
        let engine = self.engine.display();
        let summary = format!("container `{}` of {engine}: {what}", self.name);
        Failure::retry(Step::Reload, summary)
    }
}

/// Takes the output of a command out of the frames in which the engine sends it
///
/// <https://docs.docker.com/reference/api/engine/version/v1.43/#tag/Container/operation/ContainerAttach>
#[derive(Default)]
struct Frames {
    header: Vec<u8>,
    /// How much of the frame is still to come
    left: usize,
}

impl Frames {
    fn take(&mut self, mut piece: &[u8], mut give: impl FnMut(&[u8])) {
        while !piece.is_empty() {
            if self.left > 0 {
                let (text, rest) = piece.split_at(self.left.min(piece.len()));
                give(text);
                self.left -= text.len();
                piece = rest;
                continue;
            }
            let (part, rest) = piece.split_at(piece.len().min(HEADER - self.header.len()));
            self.header.extend_from_slice(part);
            piece = rest;
            if let [_stream, _, _, _, a, b, c, d] = self.header[..] {
                self.left = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
                self.header.clear();
            }
        }
    }
}

/// How long the header of a frame is
const HEADER: usize = 8;

/// How often a command is looked at that has closed its output
const POLL: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_taken_apart_however_they_arrive() {
        let stream = [
            &[1, 0, 0, 0, 0, 0, 0, 3][..],
            b"one",
            &[2, 0, 0, 0, 0, 0, 0, 0],
            &[2, 0, 0, 0, 0, 0, 0, 4],
            b" two",
        ]
        .concat();
        for size in 1..=stream.len() {
            let (mut frames, mut text) = (Frames::default(), Vec::new());
            for piece in stream.chunks(size) {
                frames.take(piece, |part| text.extend_from_slice(part));
            }
            assert_eq!(text, b"one two", "{size}");
        }
    }
}
