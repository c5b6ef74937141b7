//! Servers that answer nonsense, without end, or never.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use certkeep::config::{ContainerAction, Content, HttpCall, HttpMethod, Reload, Socket};

use crate::support::{folder, write};
use crate::{Deployed, reload};

/// What a server does with a connection
#[derive(Clone, Copy, Debug)]
enum Manner {
    /// Says this and hangs up
    Say(&'static [u8]),
    /// Says this and then the same again, for ever
    Flood(&'static [u8], &'static [u8]),
    /// Says this and then nothing
    Hang(&'static [u8]),
}

fn serve(listener: UnixListener, manner: Manner) {
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { return };
        std::thread::spawn(move || {
            // What it is asked does not matter to it, but must be taken.
            drop(stream.read(&mut [0; 4096]));
            match manner {
                Manner::Say(text) => drop(stream.write_all(text)),
                Manner::Flood(text, again) => {
                    drop(stream.write_all(text));
                    while stream.write_all(again).is_ok() {}
                }
                Manner::Hang(text) => {
                    drop(stream.write_all(text));
                    while stream.read(&mut [0; 4096]).is_ok_and(|read| read > 0) {}
                }
            }
        });
    }
}

/// How the reload fails that talks to such a server
async fn failure(manner: Manner, way: impl FnOnce(std::path::PathBuf) -> Reload) -> String {
    let folder = folder();
    let (socket, file) = (folder.path().join("socket"), folder.path().join("site.pem"));
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
    write(&file, key.serialize_pem() + &leaf.self_signed(&key).unwrap().pem());
    let listener = UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || serve(listener, manner));
    let begun = Instant::now();
    let deployed = Deployed::new("a", &[(&file, Content::Combined)]);
    let failure = reload(&way(socket), &[&deployed]).await.unwrap_err();
    assert!(begun.elapsed() < BRIEF * 10, "{manner:?}: {:?}", begun.elapsed());
    let said = failure.to_string();
    assert!(said.len() < 5000 && !said.chars().any(char::is_control), "{said}");
    assert!(!said.contains("PRIVATE KEY"), "{said}");
    said
}

#[tokio::test]
async fn a_socket_that_is_not_haproxy_s_fails_the_reload_in_time() {
    let cases = [
        (Manner::Say(b"\x1b[2J\xff\xfe\0garbage\n"), "has no certificate"),
        (Manner::Say(b""), "without an answer"),
        (Manner::Say(b"Unknown command: 'show'\n"), "does not know"),
        (Manner::Flood(b"", &[b'\n'; 4096]), "longer than"),
        (Manner::Flood(b"", &[b'x'; 4096]), "longer than"),
        (Manner::Say(YES), "shows another certificate under `shop`: AB, and not "),
        (Manner::Hang(b""), "not done within"),
        (Manner::Hang(b"# filename\n"), "not done within"),
    ];
    for (manner, expected) in cases {
        let said = failure(manner, |path| Reload::Haproxy {
            socket: Socket::Unix(path),
            certificate: Some("shop".to_owned()),
            timeout: BRIEF,
        })
        .await;
        assert!(said.contains(expected), "{manner:?}: {said}");
    }
}

#[tokio::test]
async fn a_server_that_speaks_no_http_or_never_ends_fails_the_reload_in_time() {
    let cases = [
        (Manner::Say(b"\x1b[2J\xff\xfe\0garbage\n"), "invalid HTTP"),
        (Manner::Say(b""), "connection closed"),
        (Manner::Say(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"), "end of file"),
        (Manner::Say(b"HTTP/1.1 301 Moved\r\nLocation: /x\r\n\r\n"), "not followed"),
        (Manner::Flood(b"HTTP/1.1 200 OK\r\n", b"X-Flood: flood\r\n"), "too large"),
        (Manner::Flood(b"HTTP/1.1 500 No\r\n\r\n", &[b'x'; 4096]), "500 Internal"),
        (Manner::Hang(b""), "no whole answer within"),
        (Manner::Hang(b"HTTP/1.1 200 OK\r\n"), "no whole answer within"),
        (Manner::Hang(b"HTTP/1.1 200 OK\r\n\r\nwait"), "no whole answer within"),
    ];
    for (manner, expected) in cases {
        let said = failure(manner, |path| {
            Reload::Http(HttpCall {
                method: HttpMethod::Post,
                url: "http://server/".parse().unwrap(),
                unix_socket: Some(path),
                ca_file: None,
                headers: [].into(),
                body: None,
                expect: Vec::new(),
                timeout: BRIEF,
            })
        })
        .await;
        assert!(said.contains(expected), "{manner:?}: {said}");
    }
}

#[tokio::test]
async fn an_engine_that_is_none_fails_the_reload_in_time() {
    let json = |body: &'static [u8]| Manner::Say(body);
    let cases = [
        (json(b"garbage\n"), "invalid HTTP"),
        (json(b"HTTP/1.1 201 Created\r\n\r\n<html>"), "not understood"),
        (json(b"HTTP/1.1 201 Created\r\n\r\n{\"Id\":\"../x\"}"), "no identifier"),
        (json(b"HTTP/1.1 201 Created\r\n\r\n{\"Id\":\"\"}"), "no identifier"),
        (json(b"HTTP/1.1 403 Forbidden\r\n\r\n"), "permit POST"),
        (json(b"HTTP/1.1 409 Conflict\r\n\r\nnot running"), "not running"),
        // Every answer is the same, so the command has no end and no state.
        (json(b"HTTP/1.1 200 OK\r\n\r\n{\"Id\":\"ab\",\"Running\":true}"), "not done within"),
        (
            json(b"HTTP/1.1 200 OK\r\n\r\n{\"Id\":\"ab\",\"Running\":false}"),
            "how the command ended",
        ),
        (Manner::Flood(b"HTTP/1.1 201 OK\r\n\r\n{\"Id\":\"", &[b'a'; 4096]), "not understood"),
        (Manner::Hang(b"HTTP/1.1 201 Created\r\n\r\n"), "not done within"),
    ];
    for (manner, expected) in cases {
        let said = failure(manner, |engine| Reload::Container {
            engine,
            name: "web".to_owned(),
            action: ContainerAction::Exec(vec!["true".to_owned()]),
            timeout: BRIEF,
        })
        .await;
        assert!(said.contains(expected), "{manner:?}: {said}");
    }
}

/// What a HAProxy would say that has done everything, and has another certificate all the same
const YES: &[u8] = b"shop\nTransaction created\nSuccess!\nSHA1 FingerPrint: AB\n";

/// How long a hostile server is waited for
const BRIEF: Duration = Duration::from_millis(500);
