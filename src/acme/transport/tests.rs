use std::net::TcpListener;

use serde_json::json;

use super::*;
use crate::acme::fake::{Ca, Reply, Stopped, issuer};
use crate::acme::{Session, new_account_record};
use crate::failure::FailureClass;

fn clock() -> Arc<dyn Clock> {
    Arc::new(Stopped("2026-11-23T12:00:00Z".parse().unwrap()))
}

async fn open(ca: &Ca) -> Result<(), Failure> {
    let transport = ca.transport();
    let record = new_account_record(transport.directory(), None, &[], ca.now()).unwrap();
    Session::open(&transport, &record, None).await.map(drop)
}

#[tokio::test]
async fn a_directory_that_names_another_origin_is_refused() {
    let ca = Ca::start().await;
    for name in ["newNonce", "newAccount", "newOrder", "revokeCert", "keyChange"] {
        for url in ["https://evil.test/x", "http://127.0.0.1:9/x", "http://169.254.169.254/"] {
            let ca = Ca::start().await;
            ca.edit_directory(|directory| directory[name] = json!(url));
            let failure = open(&ca).await.unwrap_err();
            assert!(failure.summary.as_str().contains(url), "{name}: {failure}");
            assert!(matches!(failure.class, FailureClass::NeedsOperator { .. }), "{failure}");
            assert_eq!(ca.requests(), ["GET /dir"], "{name} {url}");
        }
    }
    ca.edit_directory(|directory| directory["renewalInfo"] = json!("https://evil.test/x"));
    open(&ca).await.unwrap();
}

#[tokio::test]
async fn an_order_that_names_another_origin_is_refused() {
    let ca = Ca::start().await;
    let session = ca.session().await;
    let body = json!({ "status": "pending", "authorizations": ["https://evil.test/authz"],
        "finalize": "https://evil.test/finalize" });
    let at = format!("{}/order/0", ca.url);
    ca.on("/new-order", move |_| Reply::json(201, &body.to_string()).header("location", Some(&at)));
    let name = crate::name::Identifier::parse("a.test").unwrap();
    let mut order = session.new_order(&[name], None, None).await.unwrap();
    let failure = order.challenges().await.unwrap_err();
    assert!(failure.summary.as_str().contains("evil.test"), "{failure}");
}

#[tokio::test]
async fn a_redirect_is_shown_and_not_followed() {
    let ca = Ca::start().await;
    for status in [301, 302, 307, 308, 303] {
        let to = "http://127.0.0.1:1/elsewhere";
        ca.on("/dir", move |_| Reply::json(status, "").header("location", Some(to)));
        let failure = open(&ca).await.unwrap_err();
        assert!(failure.summary.as_str().contains(to), "{failure}");
        assert!(failure.try_other_issuer);
        assert_eq!(ca.requests(), ["GET /dir"]);
    }
}

#[tokio::test]
async fn an_endless_answer_is_cut_off() {
    let ca = Ca::start().await;
    ca.on("/dir", |_| Reply::flood());
    let failure = open(&ca).await.unwrap_err();
    assert!(failure.summary.as_str().contains("1 MiB"), "{failure}");
    let large = "x".repeat(64 << 10);
    ca.on("/dir", move |_| Reply::json(200, "").header("x-large", Some(&large)));
    open(&ca).await.unwrap_err();
}

/// The clock of the tests jumps to the next limit as soon as nobody has anything to do.
#[tokio::test(start_paused = true)]
async fn a_ca_that_says_nothing_or_never_ends_is_given_up() {
    let begun = tokio::time::Instant::now();
    // The kernel takes connections, and nobody ever takes them from it.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let directory = format!("http://{}/dir", silent.local_addr().unwrap());
    let transport = Transport::new(&issuer(&directory), None, clock()).unwrap();
    let record = new_account_record(&directory, None, &[], clock().now()).unwrap();
    let failure = Session::open(&transport, &record, None).await.unwrap_err();
    assert!(failure.summary.as_str().contains("did not answer in time"), "{failure}");
    assert_eq!(failure.class, FailureClass::Retry);
    assert!(failure.try_other_issuer);
    let seconds = begun.elapsed().as_secs();
    assert!((29..=31).contains(&seconds), "{seconds}");

    let ca = Ca::start().await;
    let begun = tokio::time::Instant::now();
    ca.on("/dir", |_| Reply::drip(Duration::from_secs(7)));
    let failure = open(&ca).await.unwrap_err();
    assert!(failure.summary.as_str().contains("did not answer in time"), "{failure}");
    assert_eq!(failure.class, FailureClass::Retry);
    let seconds = begun.elapsed().as_secs();
    assert!((59..=61).contains(&seconds), "{seconds}");
}

#[tokio::test]
async fn what_is_no_directory_is_said_to_be_none() {
    let ca = Ca::start().await;
    for body in ["<html>hello</html>", "", "[]", "{}", "7", r#"{"newNonce": 7}"#] {
        ca.on("/dir", move |_| Reply::json(200, body));
        let failure = open(&ca).await.unwrap_err();
        assert!(failure.summary.as_str().contains("directory"), "{body}: {failure}");
        assert_eq!(failure.class, FailureClass::Retry, "{body}");
    }
}

#[tokio::test]
async fn an_error_page_of_a_proxy_is_a_failure_that_passes() {
    let ca = Ca::start().await;
    let html = "<html><h1>502 Bad Gateway</h1></html>";
    ca.on("/nonce", move |_| Reply::json(502, html));
    ca.on("/dir", move |_| Reply::json(502, html));
    let failure = open(&ca).await.unwrap_err();
    assert!(failure.summary.as_str().contains("HTTP 502"), "{failure}");
    assert_eq!(failure.class, FailureClass::Retry);
    assert!(failure.try_other_issuer);
}

#[tokio::test]
async fn a_busy_ca_is_left_alone_as_long_as_it_asks() {
    let ca = Ca::start().await;
    let session = ca.session().await;
    let at = FailureClass::NotBefore { at: ca.now().after(Duration::from_secs(90)) };
    for path in ["/nonce", "/new-order"] {
        // The nonces at hand are used up first.
        while session.transport().wire.nonces.take().is_some() {}
        ca.once(path, |_| Reply::json(503, "").header("retry-after", Some("90")));
        let name = crate::name::Identifier::parse("a.test").unwrap();
        let unplaced = session.new_order(&[name], None, None).await.unwrap_err();
        assert_eq!(unplaced.failure.class, at, "{path}");
    }
}

#[tokio::test]
async fn a_ca_that_is_not_there_is_its_own_fault() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let issuer = issuer(&format!("http://{free}/dir"));
    let transport = Transport::new(&issuer, None, clock()).unwrap();
    let record = new_account_record(&issuer.directory, None, &[], clock().now()).unwrap();
    let failure = Session::open(&transport, &record, None).await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Retry);
    assert!(failure.try_other_issuer);
    assert!(failure.summary.as_str().contains("refused"), "{failure}");
}

#[tokio::test]
async fn the_ca_s_clock_is_compared_with_ours() {
    let ca = Ca::start().await;
    let transport = ca.transport();
    assert_eq!(transport.clock_skew(), 0);
    ca.on("/ari", |_| Reply::json(200, "").header("date", Some("Mon, 23 Nov 2026 11:50:00 GMT")));
    transport.get(&format!("{}/ari", ca.url)).await.unwrap();
    assert_eq!(transport.clock_skew(), -600);
    assert_eq!(transport.requests(), 1);
}

#[test]
fn what_cannot_work_is_refused_before_any_request() {
    let with = |change: fn(&mut Issuer), roots: Option<&[u8]>| {
        let mut issuer = issuer("https://ca.test/dir");
        change(&mut issuer);
        Transport::new(&issuer, roots, clock()).unwrap_err().to_string()
    };
    assert!(with(|i| i.directory = "http://ca.test/".into(), None).contains("not https"));
    assert!(with(|i| i.directory = "ca.test".into(), None).contains("no URL"));
    assert!(with(|_| (), Some(b"nothing")).contains("holds no certificate"));
    let broken = "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n";
    assert!(with(|_| (), Some(broken.as_bytes())).contains("not PEM"));
    let shown = with(|i| i.proxy = Some("http://user:hunter2@[bad".into()), None);
    assert!(shown.contains("proxy") && !shown.contains("hunter2"), "{shown}");
}

/// In namespaces of its own, where the file that it reads first never comes to an end
#[test]
fn a_resolver_that_hangs_leaves_threads_to_the_disk() {
    let output = std::process::Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-euc"])
        .arg(
            "mount -t tmpfs none /mnt; mkfifo /mnt/hosts; mount --bind /mnt/hosts /etc/hosts; \
             exec \"$0\" \"$@\"",
        )
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "acme::transport::tests::with_a_resolver_that_hangs"])
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && shown.contains("1 passed"), "{shown} {output:?}");
}

#[test]
#[ignore = "run by the test above, with a resolver that hangs"]
fn with_a_resolver_that_hangs() {
    let threads = 16;
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().max_blocking_threads(threads).build().unwrap();
    let (found, disk) = runtime.block_on(async {
        let mut lookups = tokio::task::JoinSet::new();
        for _ in 0..threads {
            let lookup = Resolver.resolve("localhost".parse().unwrap());
            lookups.spawn(tokio::time::timeout(Duration::from_millis(300), lookup));
        }
        let found = lookups.join_all().await.into_iter().any(|end| end.is_ok());
        let disk = tokio::task::spawn_blocking(|| ());
        (found, tokio::time::timeout(Duration::from_secs(20), disk).await)
    });
    runtime.shutdown_background();
    assert!(!found, "it does not hang");
    disk.expect("no thread is left").unwrap();
}
