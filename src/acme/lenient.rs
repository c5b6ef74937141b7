//! Answers made fit for instant-acme, which refuses a whole document for a detail in it.

use bytes::Bytes;
use serde_json::{Map, Value};

use super::answer::Problem;

/// Take out of an order, authorization or challenge what nobody reads and instant-acme trips over
///
/// `replaces` is what newOrder asked for. A CA that reuses an order does not echo it, which
/// instant-acme takes for an error after the order was placed; the order is worth more.
pub(super) fn mend(body: Bytes, replaces: Option<&str>) -> Bytes {
    if !body.trim_ascii_start().starts_with(b"{") {
        return body;
    }
    let Ok(Value::Object(mut document)) = serde_json::from_slice(&body) else { return body };
    let mut changed = false;
    let echo = replaces.map(|id| Value::String(id.to_owned()));
    if document.contains_key("finalize") && document.get("replaces") != echo.as_ref() {
        match echo {
            Some(echo) => document.insert("replaces".to_owned(), echo),
            None => document.remove("replaces"),
        };
        changed = true;
    }
    if let Some(Value::Array(challenges)) = document.get_mut("challenges") {
        let before = challenges.len();
        challenges.retain(is_understood);
        changed |= challenges.len() != before;
        for challenge in challenges.iter_mut().filter_map(Value::as_object_mut) {
            changed |= mend_error(challenge);
        }
    }
    changed |= mend_error(&mut document);
    changed |= drop_unless(&mut document, "profile", Value::is_string);
    changed |= drop_unless(&mut document, "wildcard", Value::is_boolean);
    changed |= drop_unless(&mut document, "certificate", Value::is_string);
    if !changed {
        return body;
    }
    serde_json::to_vec(&document).map_or(body, Bytes::from)
}

/// Whether a challenge has what every challenge has, in words that RFC 8555 knows
fn is_understood(challenge: &Value) -> bool {
    let text = |name| challenge.get(name).and_then(Value::as_str);
    let status = matches!(text("status"), Some("pending" | "processing" | "valid" | "invalid"));
    let token = challenge.get("token").is_none_or(Value::is_string);
    status && token && text("type").is_some() && text("url").is_some()
}

fn mend_error(document: &mut Map<String, Value>) -> bool {
    let Some(error) = document.get_mut("error") else { return false };
    *error = match error {
        Value::Null => return false,
        Value::Object(_) => Problem::read(error).to_plain(),
        _ => Value::Null,
    };
    true
}

fn drop_unless(document: &mut Map<String, Value>, name: &str, sound: fn(&Value) -> bool) -> bool {
    let odd = document.get(name).is_some_and(|value| !sound(value));
    odd && document.remove(name).is_some()
}

#[cfg(test)]
mod tests {
    use instant_acme::{AuthorizationState, OrderState};

    use super::*;

    #[test]
    fn an_authorization_is_read_whatever_else_is_in_it() {
        let text = r#"{"identifier":{"type":"dns","value":"a.test"},"status":"pending","wildcard":null,
            "error": "no", "challenges":[
            {"type":"dns-persist-01","url":"https://x/1","status":"pending","issuer-domain-names":["x"]},
            {"type":"quantum-01","url":"https://x/2","status":"entangled"},
            {"type":"odd-01","status":"pending"}, 7, null,
            {"type":"odd-02","url":"https://x/3","status":"pending","token":9},
            {"type":"http-01","url":"https://x/4","status":"invalid","token":"t","error":
              {"type":"urn:ietf:params:acme:error:dns","detail":"d","subproblems":[
                {"identifier":{"type":"star","value":"x"}}]}}]}"#;
        assert!(serde_json::from_str::<AuthorizationState>(text).is_err());
        let mended = mend(Bytes::from(text), None);
        let read: AuthorizationState = serde_json::from_slice(&mended).unwrap();
        assert_eq!(read.challenges.len(), 2);
        assert_eq!(read.challenges[1].error.as_ref().unwrap().detail.as_deref(), Some("d"));
    }

    #[test]
    fn an_order_is_read_whatever_it_replaces() {
        let order = |replaces: &str| {
            format!(
                r#"{{"status":"pending","authorizations":[],"finalize":"https://x/f",
                "profile":null,"certificate":null{replaces}}}"#
            )
        };
        let cases = [
            ("", None),
            ("", Some("a.b")),
            (r#","replaces":"a.b""#, Some("a.b")),
            (r#","replaces":"c.d""#, Some("a.b")),
            (r#","replaces":"no dot""#, None),
            (r#","replaces":"a\u002eb""#, Some("a.b")),
            (r#","replaces":7"#, None),
        ];
        for (echo, asked) in cases {
            let mended = mend(Bytes::from(order(echo)), asked);
            let read: OrderState = serde_json::from_slice(&mended).unwrap();
            assert_eq!(read.replaces.map(|id| id.to_string()).as_deref(), asked, "{echo}");
        }
    }

    #[test]
    fn what_needs_no_mending_is_the_same_bytes() {
        for text in [r#"{ "status": "valid" }"#, "-----BEGIN CERTIFICATE-----", "", "[1]", "{"] {
            assert_eq!(mend(Bytes::from(text), None), text);
        }
    }
}
