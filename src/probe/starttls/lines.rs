//! Protocols of lines.

use tokio::io::{AsyncRead, AsyncWrite};

use super::super::ProbeError;
use super::dialogue::{Dialogue, refused, unlike};

/// SMTP by `EHLO`, LMTP by `LHLO`
///
/// <https://www.rfc-editor.org/rfc/rfc3207#section-4>
pub(super) async fn smtp<S: AsyncRead + AsyncWrite + Unpin>(
    hello: &str,
    dialogue: &mut Dialogue<'_, S>,
) -> Result<(), ProbeError> {
    reply(dialogue).await?.must_be(&["220"], GREETING)?;
    // The name is one that nobody has, and says in a log who asked.
    dialogue.say(format!("{hello} certkeep.invalid\r\n")).await?;
    let offer = reply(dialogue).await?;
    offer.must_be(&["250"], "what it offers")?;
    let offers = |line: &String| {
        let keyword = line.get(4..).and_then(|words| words.split(' ').next());
        keyword.is_some_and(|keyword| keyword.eq_ignore_ascii_case("STARTTLS"))
    };
    if !offer.0.iter().any(offers) {
        return Err(ProbeError::NoStartTls);
    }
    dialogue.say("STARTTLS\r\n").await?;
    reply(dialogue).await?.must_agree("220")
}

/// <https://www.rfc-editor.org/rfc/rfc4217#section-4>
pub(super) async fn ftp<S: AsyncRead + AsyncWrite + Unpin>(
    dialogue: &mut Dialogue<'_, S>,
) -> Result<(), ProbeError> {
    reply(dialogue).await?.must_be(&["220"], GREETING)?;
    dialogue.say("AUTH TLS\r\n").await?;
    reply(dialogue).await?.must_agree("234")
}

/// <https://www.rfc-editor.org/rfc/rfc4642#section-2.2>
pub(super) async fn nntp<S: AsyncRead + AsyncWrite + Unpin>(
    dialogue: &mut Dialogue<'_, S>,
) -> Result<(), ProbeError> {
    reply(dialogue).await?.must_be(&["200", "201"], GREETING)?;
    dialogue.say("STARTTLS\r\n").await?;
    reply(dialogue).await?.must_agree("382")
}

/// <https://www.rfc-editor.org/rfc/rfc9051#section-6.2.1>
pub(super) async fn imap<S: AsyncRead + AsyncWrite + Unpin>(
    dialogue: &mut Dialogue<'_, S>,
) -> Result<(), ProbeError> {
    let greeting = dialogue.line().await?;
    if !begins_with(&greeting, "* OK") {
        return Err(unlike(greeting, GREETING));
    }
    dialogue.say("a STARTTLS\r\n").await?;
    loop {
        let line = dialogue.line().await?;
        match line.split_once(' ') {
            // The server may tell of other things at any time.
            Some(("*", _)) => {}
            Some(("a", answer)) if begins_with(answer, "OK") => return Ok(()),
            Some(("a", answer)) => return Err(refused(answer)),
            _ => return Err(unlike(line, ANSWER)),
        }
    }
}

/// <https://www.rfc-editor.org/rfc/rfc2595#section-4>
pub(super) async fn pop3<S: AsyncRead + AsyncWrite + Unpin>(
    dialogue: &mut Dialogue<'_, S>,
) -> Result<(), ProbeError> {
    let greeting = dialogue.line().await?;
    if !begins_with(&greeting, "+OK") {
        return Err(unlike(greeting, GREETING));
    }
    dialogue.say("STLS\r\n").await?;
    let answer = dialogue.line().await?;
    if begins_with(&answer, "+OK") { Ok(()) } else { Err(refused(answer)) }
}

/// <https://www.rfc-editor.org/rfc/rfc5804#section-2.2>
pub(super) async fn sieve<S: AsyncRead + AsyncWrite + Unpin>(
    dialogue: &mut Dialogue<'_, S>,
) -> Result<(), ProbeError> {
    let mut offered = false;
    loop {
        let line = dialogue.line().await?;
        if begins_with(&line, "OK") {
            break;
        }
        if !line.starts_with('"') {
            return Err(unlike(line, GREETING));
        }
        offered |= line.trim_end().eq_ignore_ascii_case("\"STARTTLS\"");
    }
    if !offered {
        return Err(ProbeError::NoStartTls);
    }
    dialogue.say("STARTTLS\r\n").await?;
    let answer = dialogue.line().await?;
    if begins_with(&answer, "OK") { Ok(()) } else { Err(refused(answer)) }
}

/// Whether the first words are these, in any case
fn begins_with(line: &str, words: &str) -> bool {
    let Some((head, rest)) = line.split_at_checked(words.len()) else { return false };
    head.eq_ignore_ascii_case(words) && (rest.is_empty() || rest.starts_with(' '))
}

/// The lines of a reply, never none
struct Reply(Vec<String>);

/// A reply of one line, or of several from one with `-` after its code to one without
///
/// <https://www.rfc-editor.org/rfc/rfc959#section-4.2>
async fn reply<S: AsyncRead + AsyncWrite + Unpin>(
    dialogue: &mut Dialogue<'_, S>,
) -> Result<Reply, ProbeError> {
    let first = dialogue.line().await?;
    let code = first.get(..3).unwrap_or_default().to_owned();
    let is_code = code.bytes().all(|byte| byte.is_ascii_digit());
    let mut goes_on = is_code && first.get(3..4) == Some("-");
    let mut lines = vec![first];
    while goes_on {
        let line = dialogue.line().await?;
        goes_on = !begins_with(&line, &code);
        lines.push(line);
    }
    Ok(Reply(lines))
}

impl Reply {
    fn first(&self) -> &str {
        self.0.first().map_or("", String::as_str)
    }

    fn has(&self, code: &str) -> bool {
        self.first()
            .strip_prefix(code)
            .is_some_and(|rest| matches!(rest.get(..1), None | Some(" " | "-")))
    }

    fn must_be(&self, codes: &[&str], wanted: &'static str) -> Result<(), ProbeError> {
        let known = codes.iter().any(|code| self.has(code));
        if known { Ok(()) } else { Err(unlike(self.first(), wanted)) }
    }

    fn must_agree(&self, code: &str) -> Result<(), ProbeError> {
        if self.has(code) { Ok(()) } else { Err(refused(self.first())) }
    }
}

const ANSWER: &str = "an answer to STARTTLS";

const GREETING: &str = "a greeting";
