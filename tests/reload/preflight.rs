//! What each way needs, looked at before an order.

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use certkeep::config::{
    ContainerAction, Content, HeaderSource, HttpBody, HttpCall, HttpMethod, Layout, Process,
    Reload, Signal, Socket, Target,
};
use certkeep::deploy;
use certkeep::failure::{Failure, Step};

use crate::support::{folder, write};
use crate::{Deployed, LIMIT};

fn preflight(reload: Reload, files: &[(&Path, Content)]) -> Result<(), Failure> {
    let Deployed { target, outputs, .. } = Deployed::new("a", files);
    deploy::preflight(&Target {
        name: target,
        layout: Layout::Links,
        outputs,
        check: None,
        reload: Some(reload),
        verify: Vec::new(),
        max_reloads_per_hour: None,
    })
}

fn haproxy(socket: &Path) -> Reload {
    let socket = Socket::Unix(socket.to_owned());
    Reload::Haproxy { socket, certificate: None, timeout: LIMIT }
}

fn container(engine: &Path) -> Reload {
    let (engine, name) = (engine.to_owned(), "web".to_owned());
    Reload::Container { engine, name, action: ContainerAction::Kill(Signal::Hup), timeout: LIMIT }
}

fn call() -> HttpCall {
    HttpCall {
        method: HttpMethod::Post,
        url: "http://server/".parse().unwrap(),
        unix_socket: None,
        ca_file: None,
        headers: [].into(),
        body: None,
        expect: Vec::new(),
        timeout: LIMIT,
    }
}

fn over(socket: &Path) -> Reload {
    Reload::Http(HttpCall { unix_socket: Some(socket.to_owned()), ..call() })
}

#[test]
fn a_socket_is_looked_at_and_not_connected_to() {
    let folder = folder();
    let (socket, file) = (folder.path().join("socket"), folder.path().join("file"));
    write(&file, "");
    let listener = UnixListener::bind(&socket).unwrap();
    listener.set_nonblocking(true).unwrap();
    let combined = [(&*file, Content::Combined)];
    for way in [haproxy, container, over] {
        preflight(way(&socket), &combined).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
        let none = folder.path().join("none");
        for (path, expected) in [(&file, "is no socket"), (&none, "there is no socket")] {
            let failure = preflight(way(path), &combined).unwrap_err();
            assert_eq!(failure.step, Step::Prepare);
            assert!(failure.summary.as_str().contains(expected), "{failure}");
        }
    }
    let spaced = [(Path::new("/tls/a b.pem"), Content::Combined)];
    let failure = preflight(haproxy(&socket), &spaced).unwrap_err();
    assert!(failure.summary.as_str().contains("cannot be asked for"), "{failure}");
}

#[test]
fn the_files_of_a_request_and_the_directory_of_a_trigger_are_looked_at() {
    let folder = folder();
    let (there, none) = (folder.path().join("there"), folder.path().join("none"));
    write(&there, "");
    let with = |path: &Path| {
        let secret = ("authorization".to_owned(), HeaderSource::File(path.to_owned()));
        [
            HttpCall { body: Some(HttpBody::File(path.to_owned())), ..call() },
            HttpCall { ca_file: Some(path.to_owned()), ..call() },
            HttpCall { headers: [secret].into(), ..call() },
        ]
    };
    for call in with(&there) {
        preflight(Reload::Http(call), &[]).unwrap();
    }
    for call in with(&none) {
        let failure = preflight(Reload::Http(call), &[]).unwrap_err();
        assert!(failure.summary.as_str().contains("none"), "{failure}");
    }
    let trigger = Reload::Trigger(folder.path().join("reload"));
    preflight(trigger.clone(), &[]).unwrap();
    assert!(!folder.path().join("reload").exists(), "it was pulled");
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).unwrap();
    preflight(trigger, &[]).unwrap_err();
}

#[test]
fn a_pid_file_that_the_reload_would_refuse_is_found_before_an_order() {
    let folder = folder();
    let path = folder.path().join("server.pid");
    let process = Process::PidFile { path: path.clone(), name: None };
    let signal = Reload::Signal { signal: Signal::Hup, process };
    preflight(signal.clone(), &[]).expect("a server may be started later");
    write(&path, format!("{}\n", std::process::id()));
    preflight(signal.clone(), &[]).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
    assert_eq!(preflight(signal.clone(), &[]).unwrap_err().step, Step::Prepare);
    for made in [["mkfifo"].as_slice(), &["ln", "-s", "/dev/zero"]] {
        std::fs::remove_file(&path).unwrap();
        let (program, words) = made.split_first().unwrap();
        let made = std::process::Command::new(program).args(words).arg(&path).status().unwrap();
        assert!(made.success());
        preflight(signal.clone(), &[]).expect_err("it is no regular file");
    }
}
