//! Servers that say what they are told to say, good and bad.

use std::pin::Pin;
use std::task::{Context, Poll};

use proptest::prelude::*;
use tokio::io::ReadBuf;

use super::*;
use crate::text::External;

/// A server that sends these parts, each as soon as it is listened to, and then closes
struct Script {
    parts: std::vec::IntoIter<Vec<u8>>,
    said_to: Vec<u8>,
}

impl AsyncRead for Script {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let script = self.get_mut();
        let Some(mut part) = script.parts.next() else { return Poll::Ready(Ok(())) };
        let rest = part.split_off(part.len().min(buffer.remaining()));
        buffer.put_slice(&part);
        if !rest.is_empty() {
            let more = std::iter::once(rest).chain(script.parts.by_ref());
            script.parts = more.collect::<Vec<_>>().into_iter();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Script {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.get_mut().said_to.extend(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// How a dialogue with this server ends, and what it was told
fn run<P: AsRef<[u8]>>(
    protocol: StartTls,
    parts: impl IntoIterator<Item = P>,
) -> (Result<(), ProbeError>, Vec<u8>) {
    let parts: Vec<_> = parts
        .into_iter()
        .map(|part| part.as_ref().to_vec())
        // Nothing at all would be the end.
        .filter(|part| !part.is_empty())
        .collect();
    let mut script = Script { parts: parts.into_iter(), said_to: Vec::new() };
    let host = Identifier::parse("a.test").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let outcome = runtime.block_on(ask(protocol, &host, &mut script));
    (outcome, script.said_to)
}

fn said(words: &str) -> External {
    External::new(words)
}

/// What a server of each kind says, part by part, until TLS begins
fn good(protocol: StartTls) -> Vec<Vec<u8>> {
    let parts: &[&[u8]] = match protocol {
        StartTls::Ftp => &[b"220-Hello\r\n and welcome\r\n220 here\r\n", b"234 go on\r\n"],
        StartTls::Imap => {
            &[b"* OK [CAPABILITY IMAP4rev1 STARTTLS] hi\r\n", b"* 0 EXISTS\r\na OK begin\r\n"]
        }
        StartTls::Ldap => &[b"\x30\x24\x02\x01\x01\x78\x1f\x0a\x01\x00\x04\x00\x04\x00\x8a\x16\
                1.3.6.1.4.1.1466.20037"],
        StartTls::Lmtp | StartTls::Smtp => &[
            b"220-a.test\r\n220 ESMTP\r\n",
            b"250-a.test\r\n250-PIPELINING\r\n250 StartTLS\r\n",
            b"220 2.0.0 ready\r\n",
        ],
        StartTls::Mysql => {
            return vec![greeting_of_mysql(0xffff)];
        }
        StartTls::Nntp => &[b"201 a.test\r\n", b"382 go on\r\n"],
        StartTls::Pop3 => &[b"+OK hi <1@a.test>\r\n", b"+OK begin\r\n"],
        StartTls::Postgres => &[b"S"],
        StartTls::Sieve => {
            &[b"\"IMPLEMENTATION\" \"x\"\r\n\"StartTLS\"\r\nOK \"hi\"\r\n", b"OK \"begin\"\r\n"]
        }
        StartTls::Xmpp => &[
            b"<?xml version='1.0'?><stream:stream xmlns='jabber:client' id='1' version='1.0' \
              xmlns:stream='http://etherx.jabber.org/streams'>",
            b"<stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/>\
              </starttls></stream:features>",
            b"<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>",
        ],
    };
    parts.iter().map(|part| part.to_vec()).collect()
}

fn greeting_of_mysql(capabilities: u16) -> Vec<u8> {
    let mut packet = b"\x0a5.5.5-10.11\0\x07\0\0\0challeng\0".to_vec();
    packet.extend(capabilities.to_le_bytes());
    packet.extend(b"\x21\x02\0\xff\x81\x15and so on");
    let mut whole = vec![u8::try_from(packet.len()).unwrap(), 0, 0, 0];
    whole.extend(packet);
    whole
}

const ALL: [StartTls; 11] = [
    StartTls::Ftp,
    StartTls::Imap,
    StartTls::Ldap,
    StartTls::Lmtp,
    StartTls::Mysql,
    StartTls::Nntp,
    StartTls::Pop3,
    StartTls::Postgres,
    StartTls::Sieve,
    StartTls::Smtp,
    StartTls::Xmpp,
];

#[test]
fn each_protocol_leads_to_tls() {
    for protocol in ALL {
        let (outcome, _) = run(protocol, good(protocol));
        assert_eq!(outcome, Ok(()), "{protocol:?}");
        let whole: Vec<u8> = good(protocol).concat();
        let (outcome, _) = run(protocol, whole.chunks(1));
        assert_eq!(outcome, Ok(()), "{protocol:?}, byte by byte");
    }
}

#[test]
fn the_client_says_what_the_protocol_asks_for() {
    for (protocol, expected) in [
        (StartTls::Ftp, "AUTH TLS\r\n"),
        (StartTls::Imap, "a STARTTLS\r\n"),
        (StartTls::Lmtp, "LHLO certkeep.invalid\r\nSTARTTLS\r\n"),
        (StartTls::Nntp, "STARTTLS\r\n"),
        (StartTls::Pop3, "STLS\r\n"),
        (StartTls::Sieve, "STARTTLS\r\n"),
        (StartTls::Smtp, "EHLO certkeep.invalid\r\nSTARTTLS\r\n"),
    ] {
        let (_, told) = run(protocol, good(protocol));
        assert_eq!(String::from_utf8(told).unwrap(), expected);
    }
    let (_, told) = run(StartTls::Xmpp, good(StartTls::Xmpp));
    let told = String::from_utf8(told).unwrap();
    assert!(told.contains("<stream:stream to='a.test' "), "{told}");
    let (_, told) = run(StartTls::Mysql, good(StartTls::Mysql));
    assert_eq!((told.len(), &told[..4]), (36, &[32, 0, 0, 1][..]));
}

#[test]
fn words_that_come_with_the_answer_are_refused() {
    for protocol in ALL {
        let mut parts = good(protocol);
        parts.last_mut().unwrap().extend(b"250 injected\r\n");
        assert_eq!(run(protocol, parts).0, Err(ProbeError::Injected), "{protocol:?}");
    }
}

#[test]
fn a_server_that_goes_away_at_any_point_is_told() {
    for protocol in ALL {
        let whole: Vec<u8> = good(protocol).concat();
        for end in 0..whole.len() {
            let (outcome, _) = run(protocol, [&whole[..end]]);
            assert_eq!(outcome, Err(ProbeError::ClosedEarly), "{protocol:?}, {end}");
        }
    }
}

#[test]
fn a_server_that_never_comes_to_an_end_is_left() {
    for protocol in ALL {
        let again: &[u8] = match protocol {
            StartTls::Ftp | StartTls::Lmtp | StartTls::Smtp => b"220-a\r\n",
            StartTls::Imap => b"* OK\r\n",
            StartTls::Ldap => b"\x30\x84\x7f\xff\xff\xff",
            StartTls::Mysql => b"\xff\xff\0\0",
            StartTls::Nntp | StartTls::Pop3 => b"a line without end",
            StartTls::Postgres => b"E\x7f\xff\xff\xff",
            StartTls::Sieve => b"\"X\"\r\n",
            StartTls::Xmpp => b"<x>",
        };
        let (outcome, _) = run(protocol, std::iter::repeat_n(again, 9999));
        assert_eq!(outcome, Err(ProbeError::Talkative), "{protocol:?}");
    }
}

#[test]
fn what_is_not_offered_is_not_asked_for() {
    let not_offered = [
        (StartTls::Smtp, "220 a\r\n250-a\r\n250 XSTARTTLS\r\n"),
        (StartTls::Lmtp, "220 a\r\n250 a\r\n"),
        (StartTls::Sieve, "\"SASL\" \"STARTTLS\"\r\nOK\r\n"),
        (StartTls::Postgres, "N"),
        (StartTls::Ldap, "\x30\x0c\x02\x01\x01\x78\x07\x0a\x01\x02\x04\x00\x04\x00"),
        (StartTls::Xmpp, "<stream:stream><stream:features><bind/></stream:features>"),
        (StartTls::Xmpp, "<stream:stream><stream:features/>"),
    ];
    for (protocol, words) in not_offered {
        let (outcome, told) = run(protocol, [words]);
        assert_eq!(outcome, Err(ProbeError::NoStartTls), "{words}");
        let told = String::from_utf8_lossy(&told).to_uppercase();
        assert!(!told.ends_with("STARTTLS\r\n") && !told.contains("<STARTTLS"), "{told}");
    }
    let (outcome, _) = run(StartTls::Mysql, [greeting_of_mysql(0xf7ff)]);
    assert_eq!(outcome, Err(ProbeError::NoStartTls));
}

#[test]
fn a_refusal_is_quoted() {
    let hello = "220 a\r\n250-a\r\n250 STARTTLS\r\n";
    let failure = "<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>";
    let features = "<stream:features><starttls/></stream:features>";
    let ldap = "\x30\x10\x02\x01\x01\x78\x0b\x0a\x01\x34\x04\x00\x04\x04away";
    let refusals = [
        (StartTls::Smtp, format!("{hello}454 4.7.0 not now\r\n"), "454 4.7.0 not now"),
        (StartTls::Ftp, "220 a\r\n530-No\r\n530 TLS\r\n".into(), "530-No"),
        (StartTls::Nntp, "200 a\r\n580 no\r\n".into(), "580 no"),
        (StartTls::Imap, "* OK a\r\na BAD no\r\n".into(), "BAD no"),
        (StartTls::Pop3, "+OK\r\n-ERR no\r\n".into(), "-ERR no"),
        (StartTls::Sieve, "\"STARTTLS\"\r\nOK\r\nNO \"no\"\r\n".into(), "NO \"no\""),
        (StartTls::Postgres, "E\0\0\0\x15SFATAL\0Mtoo many\0\0".into(), "too many"),
        (StartTls::Ldap, ldap.into(), "result 52: away"),
        (StartTls::Xmpp, format!("{features}{failure}"), failure),
    ];
    for (protocol, words, quote) in refusals {
        let expected = Err(ProbeError::StartTlsRefused(said(quote)));
        assert_eq!(run(protocol, [&words]).0, expected, "{words}");
    }
    let (outcome, _) = run(StartTls::Smtp, [format!("{hello}4\x1b[2J{}\r\n", "x".repeat(999))]);
    let shown = outcome.unwrap_err().to_string();
    assert!(shown.starts_with(r"answers STARTTLS with `4\u{1b}[2Jxxx"), "{shown}");
    assert!(shown.len() < 300 && shown.ends_with("x…`"), "{shown}");
}

#[test]
fn another_protocol_is_quoted() {
    let other = [
        (StartTls::Smtp, "SSH-2.0-OpenSSH\r\n", "SSH-2.0-OpenSSH", "a greeting"),
        (StartTls::Smtp, "2200 a\r\n", "2200 a", "a greeting"),
        (StartTls::Smtp, "554 no\r\n", "554 no", "a greeting"),
        (StartTls::Smtp, "220 a\r\n502 what?\r\n", "502 what?", "what it offers"),
        (StartTls::Ftp, "120 soon\r\n", "120 soon", "a greeting"),
        (StartTls::Nntp, "400 full\r\n", "400 full", "a greeting"),
        (StartTls::Imap, "* PREAUTH a\r\n", "* PREAUTH a", "a greeting"),
        (StartTls::Imap, "* OKAY\r\n", "* OKAY", "a greeting"),
        (StartTls::Imap, "* OK\r\nb OK\r\n", "b OK", "an answer to STARTTLS"),
        (StartTls::Pop3, "-ERR no\r\n", "-ERR no", "a greeting"),
        (StartTls::Sieve, "BYE \"no\"\r\n", "BYE \"no\"", "a greeting"),
        (StartTls::Postgres, "H", "H", "an answer to STARTTLS"),
        (StartTls::Ldap, "220 a\r\n", "220 a", "an answer to STARTTLS"),
        (StartTls::Ldap, "\x30\x03\x02\x01\x01", "0\u{3}\u{2}\u{1}\u{1}", "an answer to STARTTLS"),
        (StartTls::Mysql, "220 a\r\n", "220", "a greeting"),
        (StartTls::Mysql, "\x09\0\0\0\u{9}4.0.1\0\0\0", "4.0.1", "a greeting"),
        (StartTls::Xmpp, "<stream:error><x/>", "<stream:error><x/>", "what it offers"),
        (StartTls::Xmpp, "<stream:stream/>", "<stream:stream/>", "what it offers"),
    ];
    for (protocol, words, quote, wanted) in other {
        let (outcome, _) = run(protocol, [words]);
        let Err(ProbeError::Unlike { said: shown, wanted: instead }) = outcome else {
            panic!("{words:?}: {outcome:?}")
        };
        assert_eq!(instead, wanted, "{words:?}");
        assert!(shown.as_str().contains(said(quote).as_str()), "{words:?}: {shown}");
    }
    let (outcome, _) = run(StartTls::Mysql, [b"\x14\0\0\0\xff\x6a\x04#HY000Not allowed"]);
    let wanted = "a greeting";
    assert_eq!(outcome, Err(ProbeError::Unlike { said: said("Not allowed"), wanted }));
}

proptest! {
    #[test]
    fn no_server_can_make_a_dialogue_panic(
        protocol in prop::sample::select(ALL.to_vec()),
        position: prop::sample::Index,
        cut in 0..8_usize,
        with in prop::collection::vec(any::<u8>(), 0..8),
        part in 1..40_usize,
    ) {
        let mut whole: Vec<u8> = good(protocol).concat();
        let position = position.index(whole.len());
        let end = whole.len().min(position + cut);
        whole.splice(position..end, with);
        let (outcome, told) = run(protocol, whole.chunks(part));
        prop_assert!(told.len() < 400);
        if let Err(error) = outcome {
            let shown = error.to_string();
            prop_assert!(shown.len() < 3000 && !shown.chars().any(char::is_control), "{shown}");
        }
    }

    #[test]
    fn no_packet_can_make_a_dialogue_panic(
        protocol in prop::sample::select(vec![StartTls::Ldap, StartTls::Mysql, StartTls::Postgres]),
        end: prop::sample::Index,
        change: Option<(prop::sample::Index, u8)>,
    ) {
        let mut body = match protocol {
            StartTls::Ldap => good(protocol).concat().split_off(2),
            StartTls::Mysql => good(protocol).concat().split_off(4),
            _ => b"SFATAL\0Mtoo many\0\0".to_vec(),
        };
        body.truncate(end.index(body.len()) + 1);
        if let Some((position, byte)) = change {
            let position = position.index(body.len());
            body[position] = byte;
        }
        let length = u8::try_from(body.len()).unwrap();
        let header = match protocol {
            StartTls::Ldap => vec![0x30, length],
            StartTls::Mysql => vec![length, 0, 0, 0],
            _ => vec![b'E', 0, 0, 0, length + 4],
        };
        let (outcome, _) = run(protocol, [header, body]);
        prop_assert!(!matches!(outcome, Err(ProbeError::Talkative | ProbeError::Injected)));
    }

    #[test]
    fn no_noise_is_taken_for_an_agreement(
        protocol in prop::sample::select(ALL.to_vec()),
        noise in prop::collection::vec(any::<u8>(), 2..60),
    ) {
        let (outcome, _) = run(protocol, noise.chunks(7));
        prop_assert!(outcome.is_err(), "{noise:?}");
    }
}
