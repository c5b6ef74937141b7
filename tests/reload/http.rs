//! Requests over HTTP.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::thread::JoinHandle;
use std::time::Duration;

use certkeep::config::{HeaderSource, HttpBody, HttpCall, HttpMethod, Reload};
use certkeep::failure::{Failure, FailureClass};

use crate::support::mounts::{Mount, inside};
use crate::support::pair::Pair;
use crate::support::pebble::pebble;
use crate::support::process::Daemon;
use crate::support::site::Site;
use crate::support::{PATIENCE, client, folder, free_port, loopback, program, wait_until, write};
use crate::{LIMIT, reload, remedy};
use tokio::net::{TcpSocket, lookup_host};
use tokio::task::{JoinSet, spawn_blocking};

fn post(url: &str) -> HttpCall {
    HttpCall {
        method: HttpMethod::Post,
        url: url.parse().unwrap(),
        unix_socket: None,
        ca_file: None,
        headers: [].into(),
        body: None,
        expect: Vec::new(),
        timeout: LIMIT,
    }
}

async fn call(call: HttpCall) -> Result<(), Failure> {
    reload(&Reload::Http(call), &[]).await
}

/// A server that gives one answer, and tells what it was asked
fn answering(answer: &'static [u8]) -> (SocketAddr, JoinHandle<String>) {
    answering_at(SocketAddr::new(loopback(), 0), answer)
}

fn answering_at(address: SocketAddr, answer: &'static [u8]) -> (SocketAddr, JoinHandle<String>) {
    let listener = TcpListener::bind(address).unwrap();
    let address = listener.local_addr().unwrap();
    let asked = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") && !asked.ends_with(b"now") {
            let mut piece = [0; 1024];
            let read = stream.read(&mut piece).unwrap();
            asked.extend_from_slice(&piece[..read]);
        }
        stream.write_all(answer).unwrap();
        String::from_utf8(asked).unwrap()
    });
    (address, asked)
}

#[tokio::test]
async fn a_request_is_sent_as_it_is_configured() {
    let folder = folder();
    let (secret, body) = (folder.path().join("secret"), folder.path().join("body"));
    write(&secret, "Bearer hunter2\n");
    write(&body, "now");
    let (address, asked) = answering(b"HTTP/1.1 204 No Content\r\n\r\n");
    call(HttpCall {
        method: HttpMethod::Put,
        headers: [
            ("authorization".to_owned(), HeaderSource::File(secret)),
            ("content-type".to_owned(), HeaderSource::Text("text/caddyfile".to_owned())),
        ]
        .into(),
        body: Some(HttpBody::File(body)),
        ..post(&format!("http://{address}/a/load?b=c"))
    })
    .await
    .unwrap();
    let asked = asked.join().unwrap();
    let host = format!("host: {address}\r\n");
    for part in [
        "PUT /a/load?b=c HTTP/1.1\r\n",
        &host,
        "authorization: Bearer hunter2\r\n",
        "content-type: text/caddyfile\r\n",
        "content-length: 3\r\n",
        "\r\n\r\nnow",
    ] {
        assert!(asked.contains(part), "{part:?}: {asked}");
    }
}

#[tokio::test]
async fn an_answer_is_judged_by_its_status() {
    let cases: [(&[u8], &[u16], Option<&str>); 7] = [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", &[], None),
        (b"HTTP/1.1 409 Conflict\r\nContent-Length: 0\r\n\r\n", &[409], None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", &[202], Some("200 OK")),
        (
            b"HTTP/1.1 400 Bad Request\r\n\r\n{\"error\": \"bad\"}\x1b[2J",
            &[],
            Some(r#"400 Bad Request: {"error": "bad"}\u{1b}[2J"#),
        ),
        (b"HTTP/1.1 401 Unauthorized\r\n\r\n", &[], Some("`headers` or `header_files`")),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", &[], Some("correct `url`")),
        (
            b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\n\r\n",
            &[],
            Some("redirects are not followed"),
        ),
    ];
    for (answer, expect, expected) in cases {
        let (address, _asked) = answering(answer);
        let url = format!("http://{address}/load?token=hunter2");
        let end = call(HttpCall { expect: expect.to_vec(), ..post(&url) }).await;
        let said = end.err().map(|failure| failure.to_string());
        match (expected, &said) {
            (None, None) => {}
            (Some(expected), Some(said)) => assert!(said.contains(expected), "{said}"),
            _ => panic!("{expected:?}: {said:?}"),
        }
        assert!(!said.unwrap_or_default().contains("hunter2"), "the query may be a secret");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_asked_again_later() {
    let address = SocketAddr::new(loopback(), free_port(loopback()));
    let failure = call(post(&format!("http://{address}/"))).await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Retry);
    assert!(failure.summary.as_str().contains("cannot connect"), "{failure}");
    let none = folder().path().join("none");
    let over = HttpCall { unix_socket: Some(none), ..post("http://envoy/") };
    let failure = call(over).await.unwrap_err();
    assert!(failure.summary.as_str().contains("there is no socket"), "{failure}");
}

#[tokio::test]
async fn an_address_that_does_not_answer_leaves_time_for_the_next() {
    if !inside("http::an_address_that_does_not_answer_leaves_time_for_the_next") {
        return;
    }
    let folder = folder();
    let hosts = folder.path().join("hosts");
    write(&hosts, format!("{} two.test\n{} two.test\n", loopback(), loopback()));
    let _hosts = Mount::bind(&hosts, "/etc/hosts".as_ref());
    let found: Vec<_> = lookup_host(("two.test", 0)).await.unwrap().collect();
    let [first, mut second] = found[..] else { panic!("{found:?}") };
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(first).unwrap();
    let full = socket.listen(1).unwrap();
    let first = full.local_addr().unwrap();
    // Once nobody takes what waits, the kernel drops what comes.
    let soon = Duration::from_millis(200);
    let waiting: Vec<_> =
        std::iter::from_fn(|| TcpStream::connect_timeout(&first, soon).ok()).collect();
    assert!(!waiting.is_empty());
    second.set_port(first.port());
    let (_, asked) = answering_at(second, b"HTTP/1.1 204 No Content\r\n\r\n");
    let url = format!("http://two.test:{}/", first.port());
    call(HttpCall { timeout: Duration::from_secs(4), ..post(&url) }).await.unwrap();
    asked.join().unwrap();
}

#[test]
fn a_resolver_that_hangs_leaves_threads_to_the_disk() {
    if !inside("http::a_resolver_that_hangs_leaves_threads_to_the_disk") {
        return;
    }
    // The resolver waits there for somebody who writes.
    let (folder, threads) = (folder(), 16);
    let hosts = folder.path().join("hosts");
    assert!(Command::new(program("mkfifo")).arg(&hosts).status().unwrap().success());
    // Held by the resolver when the test ends, and gone with this process.
    std::mem::forget(Mount::bind(&hosts, "/etc/hosts".as_ref()));
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().max_blocking_threads(threads).build().unwrap();
    let (ends, disk) = runtime.block_on(async {
        let mut calls = JoinSet::new();
        for _ in 0..threads {
            let soon = Duration::from_millis(300);
            calls.spawn(call(HttpCall { timeout: soon, ..post("http://localhost:1/") }));
        }
        (calls.join_all().await, tokio::time::timeout(LIMIT, spawn_blocking(|| ())).await)
    });
    runtime.shutdown_background();
    for end in ends {
        let failure = end.unwrap_err();
        assert!(failure.summary.as_str().contains("within 300ms"), "{failure}");
    }
    disk.expect("no thread is left").unwrap();
}

#[tokio::test]
async fn a_socket_is_asked_in_place_of_the_host() {
    let folder = folder();
    let socket = folder.path().join("admin.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let asked = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = vec![0; 4096];
        let read = stream.read(&mut asked).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
        String::from_utf8_lossy(&asked[..read]).into_owned()
    });
    call(HttpCall { unix_socket: Some(socket), ..post("http://envoy/reload") }).await.unwrap();
    let asked = asked.join().unwrap();
    assert!(asked.starts_with("POST /reload HTTP/1.1\r\nhost: envoy\r\n"), "{asked}");
}

#[tokio::test]
async fn https_is_for_a_server_that_the_roots_vouch_for() {
    let ca = pebble().start();
    let get = |roots| HttpCall { method: HttpMethod::Get, ca_file: roots, ..post(&ca.directory()) };
    call(get(Some(ca.ca_file()))).await.unwrap();
    let failure = call(get(None)).await.unwrap_err();
    assert!(failure.summary.as_str().contains("no TLS"), "{failure}");
    let none = folder().path().join("none.pem");
    let failure = call(get(Some(none))).await.unwrap_err();
    assert!(remedy(&failure).contains("readable"), "{failure}");
}

#[test]
fn caddy_serves_each_renewal_after_a_request_to_its_admin_api() {
    let ca = pebble().start();
    let site = Site::new(&ca);
    let pair = Pair { fullchain: site.tls().join("site.pem"), key: site.tls().join("site.key") };
    pair.placeholder("a.test");
    let (settings, ip) = (site.path().join("Caddyfile"), loopback());
    let address = |port| SocketAddr::new(ip, port);
    let (admin, tls) = (address(free_port(ip)), address(free_port(ip)));
    write(
        &settings,
        format!(
            "{{\n admin {admin} {{\n  origins {admin}\n }}\n auto_https off\n storage file_system {}\n}}\n\
             https://a.test:{} {{\n bind {}\n tls {} {}\n respond well\n}}\n",
            site.path().join("caddy").display(),
            tls.port(),
            tls.ip(),
            pair.fullchain.display(),
            pair.key.display()
        ),
    );
    let mut command = Command::new(program("caddy"));
    command.args(["run", "--adapter", "caddyfile", "--config"]).arg(&settings);
    command.env("HOME", site.path());
    let caddy = Daemon::start(&mut command, &site.path().join("caddy.log")).unwrap();
    let serves = || client::served(tls, "a.test");
    let before = wait_until("caddy answers", PATIENCE, || serves().ok());
    site.configure(&format!(
        "site:\n  names: [a.test]\n  files:\n  - {{ path: TLS/site.pem, content: fullchain }}\n  \
         - {{ path: TLS/site.key, content: key }}\n  deploy:\n    reload:\n      http:\n        \
         url: \"http://{admin}/load\"\n        headers:\n          Content-Type: text/caddyfile\n          \
         Cache-Control: must-revalidate\n        body_file: {}\n    \
         verify: [{{ endpoint: \"a.test:443\", connect: \"{tls}\", within: 10s }}]\n",
        settings.display()
    ));
    for _ in 0..2 {
        site.certkeep(&["renew", "--force"]).succeeds();
        let served = serves().unwrap();
        assert_eq!(served, pair.leaf().fingerprint, "{}", caddy.log());
        assert_ne!(served, before);
    }
    assert_eq!(site.state_of("site"), "live");
    let kept = pair.leaf().fingerprint;
    write(&settings, "this is no Caddyfile {");
    site.certkeep(&["renew", "--force"]).exits(1).says(&["400 Bad Request", "Caddyfile"]);
    assert_eq!((serves().unwrap(), pair.leaf().fingerprint), (kept, kept), "it was not put back");
}
