//! One call of instant-acme, with the answers that it saw and the patience that it lacks.

use std::cell::RefCell;

use super::answer::Answer;

/// Make a call, again and again while the CA refuses nothing but its nonce
///
/// Nothing has happened at the CA when it refuses a nonce, and instant-acme gives up at the third.
/// Evaluates to the call's result and the last answer that it saw. A macro, because the future of
/// a closure that lends cannot be known to be `Send`.
///
/// <https://www.rfc-editor.org/rfc/rfc8555#section-6.5>
macro_rules! call {
    ($call:expr) => {
        call!($call, replacing: None)
    };
    ($call:expr, replacing: $replaces:expr) => {{
        let mut round = 1;
        loop {
            let (result, answer) = $crate::acme::call::observed($replaces, $call).await;
            let again = answer.as_ref().is_some_and(|answer| answer.is("badNonce"));
            if !again || round == $crate::acme::call::ROUNDS {
                break (result, answer);
            }
            round += 1;
        }
    }};
}
pub(super) use call;

/// A call's result, and the last answer that it saw
pub(super) async fn observed<T>(
    replaces: Option<&str>,
    call: impl Future<Output = T>,
) -> (T, Option<Answer>) {
    let scope = Scope { replaces: replaces.map(ToOwned::to_owned), answer: None };
    let scoped = SCOPE.scope(RefCell::new(scope), async {
        let result = call.await;
        (result, SCOPE.with(|scope| scope.borrow_mut().answer.take()))
    });
    scoped.await
}

/// Keep what a request of the call under way was answered; `None` while there is no answer
pub(super) fn observe(answer: Option<&Answer>) {
    let kept = SCOPE.try_with(|scope| scope.borrow_mut().answer = answer.cloned());
    // Requests of our own are made outside of any call and hand their answer back themselves.
    kept.unwrap_or(());
}

/// The certificate that the newOrder under way replaces
pub(super) fn replaces() -> Option<String> {
    SCOPE.try_with(|scope| scope.borrow().replaces.clone()).ok().flatten()
}

struct Scope {
    replaces: Option<String>,
    answer: Option<Answer>,
}

tokio::task_local! {
    static SCOPE: RefCell<Scope>;
}

/// Ten rounds of instant-acme's three: at half of all nonces refused, one call in a billion fails
pub(super) const ROUNDS: u32 = 10;
