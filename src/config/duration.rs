//! Spans of time as people write them: `30d`, `1h30m`, `33%`.

use std::time::Duration;

use crate::config::Share;

/// Read a span: whole numbers with a unit each, the larger unit first
///
/// # Errors
/// Says what is wrong with the text, as the end of a sentence that begins with it.
pub(super) fn span(text: &str) -> Result<Duration, &'static str> {
    let mut seconds = 0_u64;
    let mut smallest = u64::MAX;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(digits);
        if number.is_empty() {
            return Err("is no span of time");
        }
        let Some(unit) = tail.chars().next() else {
            return Err("has no unit");
        };
        let Some((_, size)) = UNITS.into_iter().find(|(letter, _)| *letter == unit) else {
            return Err("has a unit that is not known");
        };
        if size >= smallest {
            return Err("names a unit twice, or a larger one after a smaller one");
        }
        smallest = size;
        seconds = number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(size))
            .and_then(|more| seconds.checked_add(more))
            .filter(|seconds| *seconds <= LONGEST)
            .ok_or("is longer than 100 years")?;
        rest = tail.get(unit.len_utf8()..).unwrap_or_default();
    }
    if text.is_empty() {
        return Err("is empty");
    }
    if seconds == 0 {
        return Err("is no time at all");
    }
    Ok(Duration::from_secs(seconds))
}

/// Read a span, or a share of a lifetime in per cent with at most one decimal
///
/// # Errors
/// Says what is wrong with the text, as the end of a sentence that begins with it.
pub(super) fn share(text: &str) -> Result<Share, &'static str> {
    let Some(number) = text.strip_suffix('%') else {
        return span(text).map(Share::Span);
    };
    let (whole, tenth) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(tenth) || tenth.len() > 1 {
        return Err("is no share");
    }
    let permille = whole
        .parse::<u16>()
        .ok()
        .and_then(|whole| whole.checked_mul(10)?.checked_add(tenth.parse().ok()?))
        .filter(|permille| (1..=999).contains(permille));
    permille.map(Share::PerMille).ok_or("is not between 0.1% and 99.9%")
}

const UNITS: [(char, u64); 4] = [('d', 86_400), ('h', 3600), ('m', 60), ('s', 1)];

/// 100 years in seconds: beyond it is a slip, and sums of it stay far from any overflow
const LONGEST: u64 = 100 * 366 * 86_400;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_as_people_write_them() {
        let cases = [
            ("30d", 30 * 86_400),
            ("6h", 21_600),
            ("90m", 5400),
            ("45s", 45),
            ("1h30m", 5400),
            ("1d2h3m4s", 93_784),
        ];
        for (text, seconds) in cases {
            assert_eq!(span(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
    }

    #[test]
    fn what_is_no_span_is_refused_with_the_reason() {
        let cases = [
            ("", "empty"),
            ("90", "no unit"),
            ("d", "no span"),
            ("-1d", "no span"),
            ("1.5h", "unit that is not known"),
            ("3w", "unit that is not known"),
            ("3ö", "unit that is not known"),
            ("30m1h", "larger one after"),
            ("1h1h", "twice"),
            ("0s", "no time"),
            ("36601d", "100 years"),
            ("99999999999999999999d", "100 years"),
            ("18446744073709551615d", "100 years"),
        ];
        for (text, expected) in cases {
            let error = span(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_share_is_a_span_or_per_cent() {
        assert_eq!(share("33%"), Ok(Share::PerMille(330)));
        assert_eq!(share("33.3%"), Ok(Share::PerMille(333)));
        assert_eq!(share("0.1%"), Ok(Share::PerMille(1)));
        assert_eq!(share("2d"), Ok(Share::Span(Duration::from_secs(172_800))));
        for text in ["0%", "100%", "%", "-3%", "3.33%", ".5%", "5.%", "99999%", "65536%"] {
            assert!(share(text).is_err(), "{text}");
        }
    }
}
