use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::*;
use crate::challenge::{Entry, Journal, Published, Solver};
use crate::config::Http01;
use crate::failure::FailureClass;
use crate::record::Artefact;

const TOKEN: &str = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA";
const OTHER: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const LOOPBACK: &str = "127.0.0.1:0";

#[derive(Debug)]
struct NoFiles;

impl Journal for NoFiles {
    fn record(&self, artefact: &Artefact) -> io::Result<Box<dyn Entry>> {
        panic!("a listener leaves nothing to record: {artefact:?}")
    }
}

fn challenge(identifier: &str, token: &str) -> Challenge {
    Challenge {
        identifier: Identifier::parse(identifier).unwrap(),
        token: Token::parse(token).unwrap(),
        key_authorization: format!("{token}.thumbprint"),
    }
}

async fn publish(solver: &Solver, address: &str, challenge: &Challenge) -> Published {
    let method = Http01::Listen(address.parse().unwrap());
    let journal: Arc<dyn Journal> = Arc::new(NoFiles);
    solver.publish(&method, challenge, &journal).await.unwrap()
}

async fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A reset after the answer is as good as an end.
    stream.read_to_end(&mut answer).await.ok();
    String::from_utf8(answer).unwrap()
}

fn get(path: &str, host: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

fn get_token(host: &str) -> String {
    get(&format!("{PREFIX}{TOKEN}"), host)
}

#[tokio::test]
async fn the_token_is_answered_until_it_is_withdrawn() {
    let solver = Solver::new(Vec::new()).unwrap();
    let published = publish(&solver, LOOPBACK, &challenge("example.com", TOKEN)).await;
    let address = solver.addresses()[0];

    let answer = ask(address, &get_token("Example.COM:8080")).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    for header in [
        "content-type: application/octet-stream",
        "content-length: 54",
        "cache-control: no-store",
        "connection: close",
    ] {
        assert!(head.contains(header), "no {header} in {head}");
    }
    assert_eq!(body, format!("{TOKEN}.thumbprint"));
    published.served().await;

    let answer = ask(address, &get_token("example.com").replace("GET", "HEAD")).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("content-length: 54"), "{head}");
    assert_eq!(body, "");

    published.withdraw().await.unwrap();
    assert!(TcpStream::connect(address).await.is_err(), "still listening");
    assert!(solver.addresses().is_empty());
}

#[tokio::test]
async fn anything_else_gets_the_same_answer() {
    let solver = Solver::new(Vec::new()).unwrap();
    let published = publish(&solver, LOOPBACK, &challenge("example.com", TOKEN)).await;
    let address = solver.addresses()[0];
    let right = format!("{PREFIX}{TOKEN}");
    let absolute = format!("http://other.example{right}");
    let cases = [
        get("/", "example.com"),
        get(PREFIX, "example.com"),
        get(&format!("{PREFIX}{OTHER}"), "example.com"),
        get(&format!("{right}/"), "example.com"),
        get(&format!("{right}?a"), "example.com"),
        get(&format!("{right}a"), "example.com"),
        get(&format!("/{right}"), "example.com"),
        get(&format!("{PREFIX}../acme-challenge/{TOKEN}"), "example.com"),
        get(&format!("{PREFIX}../../etc/passwd"), "example.com"),
        get(&right.replace('e', "%65"), "example.com"),
        get(&right, "other.example"),
        get(&right, "example.com.evil.example"),
        get(&right, "me@example.com"),
        get(&right, "127.0.0.1"),
        get(&right, ""),
        get(&right, "a b"),
        get(&absolute, "example.com"),
        format!("GET {right} HTTP/1.0\r\n\r\n"),
        get_token("example.com").replace("GET", "POST"),
        get_token("example.com").replace("GET", "DELETE"),
    ];
    let mut shapes = Vec::new();
    for request in cases {
        let answer = ask(address, &request).await;
        assert!(answer.contains(" 404 Not Found\r\n"), "{request}: {answer}");
        let shape: Vec<_> = answer
            .lines()
            .filter(|line| !line.starts_with("date: ") && !line.starts_with("HTTP/1."))
            .map(str::to_owned)
            .collect();
        shapes.push(shape);
    }
    // hyper names the end of the connection only where the protocol's version needs it.
    shapes.iter_mut().for_each(|shape| shape.retain(|line| !line.starts_with("connection: ")));
    shapes.dedup();
    assert_eq!(shapes.len(), 1, "{shapes:?}");
    tokio::select! {
        biased;
        () = published.served() => panic!("nothing was served"),
        () = std::future::ready(()) => {}
    }
}

#[tokio::test]
async fn a_refused_host_is_told() {
    let solver = Solver::new(Vec::new()).unwrap();
    let published = publish(&solver, LOOPBACK, &challenge("example.com", TOKEN)).await;
    assert_eq!(published.refused_host(), None);
    ask(solver.addresses()[0], &get_token("backend:8080")).await;
    assert_eq!(published.refused_host(), Some(External::new("backend:8080")));
}

#[tokio::test]
async fn an_address_is_a_host_in_either_spelling() {
    let cases = [
        ("192.0.2.1", "192.0.2.1:80"),
        ("2001:db8::1", "[2001:db8::1]"),
        ("2001:db8::1", "[2001:DB8:0::1]:80"),
        ("bücher.example", "xn--bcher-kva.example"),
    ];
    for (identifier, host) in cases {
        let identifier = Identifier::parse(identifier).unwrap();
        assert!(names(host, &identifier), "{host}");
    }
}

#[tokio::test]
async fn a_head_of_nine_kilobytes_is_refused() {
    let solver = Solver::new(Vec::new()).unwrap();
    let _published = publish(&solver, LOOPBACK, &challenge("example.com", TOKEN)).await;
    let filler = "a".repeat(9 * 1024);
    let request = get_token(&format!("example.com\r\nX-Filler: {filler}"));
    let answer = ask(solver.addresses()[0], &request).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_peer_is_cut_off() {
    let (listeners, _guard) = Listeners::new(Vec::new()).unwrap();

    let (mut peer, ours) = duplex(1024);
    let begun = Instant::now();
    let drip = async {
        for byte in get_token("example.com").bytes() {
            if peer.write_all(&[byte]).await.is_err() {
                break;
            }
            sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::join!(drip, Arc::clone(&listeners).serve(ours));
    let took = begun.elapsed();
    assert!((HEADER_DEADLINE..CONNECTION_DEADLINE).contains(&took), "head: {took:?}");

    let (mut peer, ours) = duplex(16);
    let begun = Instant::now();
    let request = get_token("example.com");
    let never_reads = async {
        peer.write_all(request.as_bytes()).await.unwrap();
    };
    tokio::join!(never_reads, Arc::clone(&listeners).serve(ours));
    assert_eq!(begun.elapsed(), CONNECTION_DEADLINE, "answer");
}

#[tokio::test]
async fn three_hundred_idle_connections_keep_nobody_out() {
    let solver = Solver::new(Vec::new()).unwrap();
    let _published = publish(&solver, LOOPBACK, &challenge("example.com", TOKEN)).await;
    let address = solver.addresses()[0];
    let mut idle = JoinSet::new();
    for _ in 0..300 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        idle.spawn(async move { stream.read(&mut [0]).await.unwrap_or(0) });
    }
    for _ in CONNECTIONS..300 {
        assert_eq!(idle.join_next().await.unwrap().unwrap(), 0, "beyond the cap");
    }
    assert_eq!(idle.len(), CONNECTIONS);
    let answer = ask(address, &get_token("example.com")).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "whoever asks gets in: {answer}");
}

#[tokio::test]
async fn a_listener_lasts_as_long_as_its_last_challenge() {
    let solver = Solver::new(Vec::new()).unwrap();
    let first = publish(&solver, LOOPBACK, &challenge("example.com", TOKEN)).await;
    let second = publish(&solver, LOOPBACK, &challenge("www.example.com", OTHER)).await;
    let address = solver.addresses()[0];
    assert_eq!(solver.addresses().len(), 1);
    first.withdraw().await.unwrap();
    let answer = ask(address, &get(&format!("{PREFIX}{OTHER}"), "www.example.com")).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(ask(address, &get_token("example.com")).await.starts_with("HTTP/1.1 404"));
    drop(second);
    assert!(TcpStream::connect(address).await.is_err(), "still listening");
}

#[tokio::test]
async fn a_port_is_free_the_moment_it_is_given_up() {
    let solver = Solver::new(Vec::new()).unwrap();
    let challenge = challenge("example.com", TOKEN);
    let first = publish(&solver, LOOPBACK, &challenge).await;
    let address = solver.addresses()[0].to_string();
    drop(first);
    for round in 0..100 {
        let published = publish(&solver, &address, &challenge).await;
        if round % 2 == 0 {
            published.withdraw().await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_taken_port_is_a_failure_that_passes() {
    let held = std::net::TcpListener::bind(LOOPBACK).unwrap();
    let method = Http01::Listen(held.local_addr().unwrap());
    let solver = Solver::new(Vec::new()).unwrap();
    let journal: Arc<dyn Journal> = Arc::new(NoFiles);
    let failure =
        solver.publish(&method, &challenge("example.com", TOKEN), &journal).await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Retry, "{failure}");
}

#[tokio::test]
async fn a_passed_socket_answers_always_and_stays_open() {
    let passed = std::net::TcpListener::bind(LOOPBACK).unwrap();
    let address = passed.local_addr().unwrap();
    let solver = Solver::new(vec![passed]).unwrap();
    assert!(ask(address, &get_token("example.com")).await.starts_with("HTTP/1.1 404"));
    // The configured address is not bound then.
    let published = publish(&solver, "[::]:80", &challenge("example.com", TOKEN)).await;
    assert_eq!(solver.addresses(), [address]);
    assert!(ask(address, &get_token("example.com")).await.starts_with("HTTP/1.1 200"));
    published.withdraw().await.unwrap();
    assert!(ask(address, &get_token("example.com")).await.starts_with("HTTP/1.1 404"));
}

/// In a process of its own, since descriptors are counted per process
#[test]
fn running_out_of_descriptors_ends_nothing_and_burns_nothing() {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--test-threads=1"])
        .arg("challenge::http01::tests::without_descriptors")
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && shown.contains("1 passed"), "{shown}");
}

#[tokio::test]
#[ignore = "run by the test above, in a process of its own"]
async fn without_descriptors() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    use rustix::time::{ClockId, clock_gettime};

    let cpu = || Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap();
    let solver = Solver::new(Vec::new()).unwrap();
    let published = publish(&solver, LOOPBACK, &challenge("example.com", TOKEN)).await;
    let address = solver.addresses()[0];
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum: Some(64) }).unwrap();
    let mut fillers = Vec::new();
    while let Ok(filler) = std::fs::File::open("/dev/null") {
        fillers.push(filler);
    }
    fillers.pop();
    let mut peer = TcpStream::connect(address).await.unwrap();
    peer.write_all(get_token("example.com").as_bytes()).await.unwrap();
    let before = cpu();
    sleep(Duration::from_secs(1)).await;
    let spent = cpu() - before;
    assert!(spent < Duration::from_millis(100), "{spent:?} of CPU in a second of waiting");
    drop(fillers);
    let mut answer = String::new();
    peer.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    published.withdraw().await.unwrap();
}
