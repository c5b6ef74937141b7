//! When the CA wants a certificate renewed.
//!
//! <https://www.rfc-editor.org/rfc/rfc9773>

use std::time::Duration;

use serde_json::Value;

use super::account::Session;
use super::answer::Answer;
use super::failure;
use super::transport::TransportError;
use crate::cert::AriId;
use crate::failure::{Failure, FailureClass, Step};
use crate::record::SuggestedWindow;
use crate::text::External;
use crate::time::Timestamp;

/// What a CA suggests
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenewalInfoAnswer {
    /// When to renew; `None` when the CA named no window, or an empty one
    pub window: Option<SuggestedWindow>,
    /// Where the CA explains it, an https URL
    pub explanation_url: Option<External>,
    /// When to ask again, between a minute and a day
    pub retry_after: Duration,
}

impl Session {
    /// Ask when to renew a certificate, with one request and no nonce
    ///
    /// Not to be asked about a certificate that has expired or was replaced.
    ///
    /// <https://www.rfc-editor.org/rfc/rfc9773#section-4>
    ///
    /// # Errors
    /// None is a reason not to renew. [`FailureClass::Retry`]: may pass soon, ask again with
    /// backoff; [`FailureClass::NotBefore`]: ask again then.
    pub async fn renewal_info(&self, id: &AriId) -> Result<RenewalInfoAnswer, Failure> {
        let now = self.transport().now();
        let later =
            |summary: &str| Failure::not_before(now.after(LONG_TERM), Step::RenewalInfo, summary);
        let Some(base) = &self.directory_facts().renewal_info else {
            return Err(later("the CA does not suggest when to renew"));
        };
        let url = format!("{}/{id}", base.trim_end_matches('/'));
        let asked = self.transport().get(&url).await;
        let passes = match &asked {
            Ok(answer) => answer.status.is_success() || answer.status.is_server_error(),
            Err(error) => matches!(error, TransportError::TimedOut(_)),
        };
        let answer = failure::sent(asked, Step::RenewalInfo, now).map_err(|mut failure| {
            if !passes && failure.class == FailureClass::Retry {
                failure.class = FailureClass::NotBefore { at: now.after(LONG_TERM) };
            }
            failure
        })?;
        read(&answer, now).ok_or_else(|| later("the CA's renewal information makes no sense"))
    }
}

fn read(answer: &Answer, now: Timestamp) -> Option<RenewalInfoAnswer> {
    let Value::Object(document) = answer.json()? else { return None };
    let window = document.get("suggestedWindow")?;
    let moment = |name| window.get(name)?.as_str()?.parse::<Timestamp>().ok();
    let (start, end) = (moment("start")?, moment("end")?);
    let explanation = document.get("explanationURL").and_then(Value::as_str);
    let asked = answer.retry_after(now).unwrap_or(LONG_TERM);
    Some(RenewalInfoAnswer {
        window: (start < end).then_some(SuggestedWindow { start, end }),
        explanation_url: explanation.and_then(failure::sane_url),
        retry_after: asked.clamp(SOONEST, LATEST),
    })
}

/// <https://www.rfc-editor.org/rfc/rfc9773#section-4.3.3>
const LONG_TERM: Duration = Duration::from_secs(6 * 3600);

const SOONEST: Duration = Duration::from_secs(60);

const LATEST: Duration = Duration::from_secs(86_400);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acme::fake::{Ca, Reply};

    fn id() -> AriId {
        AriId { key_identifier: vec![1, 2], serial: vec![0, 0x87] }
    }

    fn window(start: &str, end: &str) -> String {
        format!(r#"{{"suggestedWindow":{{"start":"{start}","end":"{end}"}},"x":1}}"#)
    }

    #[tokio::test]
    async fn a_window_is_taken_as_the_ca_gives_it() {
        let ca = Ca::start().await;
        let session = ca.session().await;
        let body = r#"{"suggestedWindow":{"start":"2026-12-01T00:00:00Z",
            "end":"2026-12-02T00:00:00.5+01:00"},"explanationURL":"https://ca.test/why"}"#;
        let cases =
            [(Some("600"), 600), (None, 6 * 3600), (Some("1"), 60), (Some("999999"), 86_400)];
        for (header, expected) in cases {
            ca.on("/ari/AQI.AIc", move |_| Reply::json(200, body).header("retry-after", header));
            let before = session.transport().requests();
            let answer = session.renewal_info(&id()).await.unwrap();
            assert_eq!(session.transport().requests() - before, 1);
            assert_eq!(answer.retry_after.as_secs(), expected, "{header:?}");
            let window = answer.window.unwrap();
            assert_eq!(window.start.to_string(), "2026-12-01T00:00:00Z");
            assert_eq!(window.end.to_string(), "2026-12-01T23:00:00Z");
            assert_eq!(answer.explanation_url.unwrap().as_str(), "https://ca.test/why");
        }
    }

    #[tokio::test]
    async fn an_empty_window_is_none_and_an_odd_link_is_not_shown() {
        let ca = Ca::start().await;
        let session = ca.session().await;
        let same = "2026-12-01T00:00:00Z";
        for (start, end) in [(same, same), ("2026-12-02T00:00:00Z", same)] {
            let body = window(start, end).replace(r#""x":1"#, r#""explanationURL":"javascript:1""#);
            ca.on("/ari/AQI.AIc", move |_| Reply::json(200, &body));
            let answer = session.renewal_info(&id()).await.unwrap();
            assert_eq!((answer.window, answer.explanation_url), (None, None));
        }
    }

    #[tokio::test]
    async fn an_odd_answer_is_asked_for_again_later() {
        let ca = Ca::start().await;
        let session = ca.session().await;
        let now = ca.now();
        let long = FailureClass::NotBefore { at: now.after(LONG_TERM) };
        let cases: [(u16, String, FailureClass); 8] = [
            (200, "garbage".into(), long.clone()),
            (200, "{}".into(), long.clone()),
            (200, "[]".into(), long.clone()),
            (200, window("yesterday", "now"), long.clone()),
            (200, window("2026-12-01", "9999999-01-01T00:00:00Z"), long.clone()),
            (404, r#"{"type":"urn:ietf:params:acme:error:malformed"}"#.into(), long.clone()),
            (403, "<html>".into(), long),
            (500, "<html>".into(), FailureClass::Retry),
        ];
        for (status, body, class) in cases {
            let text = body.clone();
            ca.on("/ari/AQI.AIc", move |_| Reply::json(status, &text));
            let failure = session.renewal_info(&id()).await.unwrap_err();
            assert_eq!(
                (failure.step, failure.class),
                (Step::RenewalInfo, class),
                "{status} {body}"
            );
        }
    }

    #[tokio::test]
    async fn a_ca_without_renewal_information_is_not_asked() {
        let ca = Ca::start().await;
        ca.edit_directory(|directory| drop(directory.remove("renewalInfo")));
        let session = ca.session().await;
        let before = session.transport().requests();
        assert!(session.renewal_info(&id()).await.is_err());
        assert_eq!(session.transport().requests(), before);
    }
}
