//! Events as lines on stderr: for people, for the journal, or for programs.

use std::fmt;
use std::io::{ErrorKind, Write};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use crate::event::{Event, Level};
use crate::text::is_unsafe;
use crate::time::Timestamp;

/// How a line looks
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `2026-11-23T20:01:02Z warning example.com: …`
    Text,
    /// The same with a coloured level, for a terminal
    Colour,
    /// `<4>example.com: …`, for the systemd journal, which keeps the time itself
    ///
    /// <https://www.freedesktop.org/software/systemd/man/latest/sd-daemon.html>
    Journal,
    /// One object a line, of the shape [`VERSION`]
    Json,
}

/// The shape of a JSON line
///
/// Every line has `version`, `time` (RFC 3339), `level` (`debug`, `info`, `warning`, `error`),
/// `event` (the kind of [`Event`]) and `message` (what [`Format::Text`] shows); `certificate`
/// where it is about one; and the fields of the event. Fields may be added; a larger number says
/// that one changed its meaning or went away.
pub const VERSION: u32 = 1;

/// Writes events as lines, each with one write
///
/// Nothing that happens to the output, a full disk or a reader that went away, stops anything:
/// the line is lost, and later lines are tried again.
pub struct Log {
    format: Format,
    minimum: Level,
    output: Mutex<Output>,
}

struct Output {
    sink: Box<dyn Write + Send>,
    /// Only a part of the last line was written
    torn: bool,
}

impl Log {
    /// A log that leaves out what matters less than `minimum`
    pub fn new(sink: Box<dyn Write + Send>, format: Format, minimum: Level) -> Self {
        Self { format, minimum, output: Mutex::new(Output { sink, torn: false }) }
    }

    /// Write what happened at that moment
    pub fn write(&self, at: Timestamp, event: &Event) {
        if event.level() < self.minimum {
            return;
        }
        let line = match self.format {
            Format::Json => json(at, event),
            Format::Text => text(&format!("{at} {}", word(event.level())), event),
            Format::Colour => {
                let (begin, end) = colour(event.level());
                text(&format!("{at} {begin}{}{end}", word(event.level())), event)
            }
            Format::Journal => text(priority(event.level()), event),
        };
        self.output.lock().unwrap_or_else(PoisonError::into_inner).put(&line);
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("format", &self.format)
            .field("minimum", &self.minimum)
            .finish_non_exhaustive()
    }
}

fn text(prefix: &str, event: &Event) -> String {
    let mut line = prefix.to_owned();
    if !line.ends_with('>') {
        line.push(' ');
    }
    if let Some(certificate) = event.certificate() {
        line.push_str(certificate.as_str());
        line.push_str(": ");
    }
    for c in event.to_string().chars() {
        if is_unsafe(c) {
            line.extend(c.escape_unicode());
        } else {
            line.push(c);
        }
    }
    line.push('\n');
    line
}

fn json(at: Timestamp, event: &Event) -> String {
    let mut fields = match serde_json::to_value(event) {
        Ok(Value::Object(fields)) => fields,
        // No event is anything else; the message says it all the same.
        _ => serde_json::Map::new(),
    };
    fields.insert("version".to_owned(), VERSION.into());
    fields.insert("time".to_owned(), at.to_string().into());
    fields.insert("level".to_owned(), word(event.level()).into());
    fields.insert("message".to_owned(), event.to_string().into());
    let mut line = String::new();
    // What is unsafe stands within strings, where JSON has an escape for it.
    for c in Value::Object(fields).to_string().chars() {
        if is_unsafe(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                line.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            line.push(c);
        }
    }
    line.push('\n');
    line
}

impl Output {
    fn put(&mut self, line: &str) {
        let whole = if self.torn { format!("\n{line}") } else { line.to_owned() };
        let mut rest = whole.as_bytes();
        while !rest.is_empty() {
            match self.sink.write(rest) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => {
                    self.torn |= rest.len() < whole.len();
                    return;
                }
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            }
        }
        self.torn = self.sink.flush().is_err() && self.torn;
    }
}

const fn word(level: Level) -> &'static str {
    match level {
        Level::Debug => "debug",
        Level::Info => "info",
        Level::Warning => "warning",
        Level::Error => "error",
    }
}

const fn priority(level: Level) -> &'static str {
    match level {
        Level::Debug => "<7>",
        Level::Info => "<6>",
        Level::Warning => "<4>",
        Level::Error => "<3>",
    }
}

const fn colour(level: Level) -> (&'static str, &'static str) {
    match level {
        Level::Debug => ("\x1b[2m", "\x1b[0m"),
        Level::Info => ("", ""),
        Level::Warning => ("\x1b[33m", "\x1b[0m"),
        Level::Error => ("\x1b[1;31m", "\x1b[0m"),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::io;
    use std::os::unix::ffi::OsStringExt;
    use std::path::PathBuf;
    use std::sync::Arc;

    use super::*;
    use crate::failure::{Failure, Step};
    use crate::name::CertName;
    use crate::text::External;

    const AT: Timestamp = Timestamp::from_seconds(1_795_464_062);

    /// A sink that takes so many bytes, and none when it is full
    #[derive(Clone, Debug)]
    struct Sink {
        taken: Arc<Mutex<Vec<u8>>>,
        room: Arc<Mutex<usize>>,
    }

    impl Sink {
        fn with_room(room: usize) -> Self {
            Self { taken: Arc::default(), room: Arc::new(Mutex::new(room)) }
        }

        fn text(&self) -> String {
            String::from_utf8(self.taken.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut room = self.room.lock().unwrap();
            if *room == 0 {
                return Err(io::Error::from(ErrorKind::StorageFull));
            }
            let taken = bytes.len().min(*room);
            *room -= taken;
            self.taken.lock().unwrap().extend(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: Format, minimum: Level, events: &[Event]) -> String {
        let sink = Sink::with_room(usize::MAX);
        let log = Log::new(Box::new(sink.clone()), format, minimum);
        events.iter().for_each(|event| log.write(AT, event));
        sink.text()
    }

    fn warning(message: &str) -> Event {
        let certificate = CertName::parse("example.com").ok();
        Event::Warned { certificate, message: External::new(message) }
    }

    #[test]
    fn a_line_says_when_how_bad_about_what_and_what() {
        let events = [warning("the sky falls"), Event::Started { certificates: 3 }];
        assert_eq!(
            logged(Format::Text, Level::Debug, &events),
            "2026-11-23T20:01:02Z warning example.com: the sky falls\n\
             2026-11-23T20:01:02Z info started, 3 certificates\n"
        );
        assert_eq!(
            logged(Format::Colour, Level::Debug, &events[..1]),
            "2026-11-23T20:01:02Z \x1b[33mwarning\x1b[0m example.com: the sky falls\n"
        );
        assert_eq!(
            logged(Format::Journal, Level::Debug, &events),
            "<4>example.com: the sky falls\n<6>started, 3 certificates\n"
        );
    }

    #[test]
    fn a_json_line_is_an_object_of_version_one() {
        let failure = Failure::retry(Step::Order, "no route");
        let events = [
            warning("the sky falls"),
            Event::Failed {
                certificate: CertName::parse("example.com").unwrap(),
                target: None,
                failure,
                next: AT,
            },
        ];
        let text = logged(Format::Json, Level::Debug, &events);
        let lines: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(
            lines[0],
            serde_json::json!({
                "version": 1,
                "time": "2026-11-23T20:01:02Z",
                "level": "warning",
                "event": "warned",
                "certificate": "example.com",
                "message": "the sky falls",
            })
        );
        assert_eq!(lines[1]["event"], "failed");
        assert_eq!(lines[1]["failure"]["step"], "order");
        assert_eq!(lines[1]["message"], "order: no route; next attempt 2026-11-23T20:01:02Z");
    }

    #[test]
    fn what_matters_less_is_left_out() {
        let events = [Event::Started { certificates: 3 }, warning("the sky falls")];
        for (minimum, lines) in [(Level::Info, 2), (Level::Warning, 1), (Level::Error, 0)] {
            assert_eq!(
                logged(Format::Text, minimum, &events).lines().count(),
                lines,
                "{minimum:?}"
            );
        }
    }

    #[test]
    fn no_event_writes_anything_but_its_line() {
        let hostile = "a\nb\r\u{1b}[2J\u{9b}\u{202e}\u{e0001}";
        let path = PathBuf::from(OsString::from_vec(b"/x\xff\n\x1b[2J".to_vec()));
        let events = [
            warning(hostile),
            Event::Stopped { reason: hostile.to_owned() },
            Event::ConfigurationRefused { errors: vec![hostile.to_owned()] },
            Event::HookOutput { program: path.clone(), line: External::new(hostile) },
            Event::Quarantined { path: path.clone(), kept: path, error: External::new(hostile) },
        ];
        for format in [Format::Text, Format::Journal, Format::Json] {
            for event in &events {
                let text = logged(format, Level::Debug, std::slice::from_ref(event));
                let line = text.strip_suffix('\n').unwrap();
                assert!(!line.chars().any(is_unsafe), "{format:?} {event:?}: {line:?}");
                assert!(line.contains(r"\u"), "{format:?} {event:?}: {line:?}");
                if format == Format::Json {
                    let fields: Value = serde_json::from_str(line).unwrap();
                    assert!(fields["event"].is_string(), "{event:?}: {line}");
                }
            }
        }
    }

    #[test]
    fn a_full_disk_loses_lines_and_nothing_else() {
        let sink = Sink::with_room(25);
        let log = Log::new(Box::new(sink.clone()), Format::Journal, Level::Debug);
        log.write(AT, &warning("one"));
        log.write(AT, &warning("two"));
        log.write(AT, &warning("three"));
        *sink.room.lock().unwrap() = usize::MAX;
        log.write(AT, &warning("four"));
        log.write(AT, &warning("five"));
        assert_eq!(
            sink.text(),
            "<4>example.com: one\n<4>ex\n<4>example.com: four\n<4>example.com: five\n",
        );
    }
}
