//! The CA, over ACME: accounts, orders, renewal information. Nothing else uses instant-acme.
//!
//! Nothing here touches a file. The agent passes records in and writes down what comes back, in
//! this order: [`new_account_record`] is on disk before [`Session::open`], [`Order::url`] before
//! the next call on the order, [`next_key`] before [`Session::roll_over`].
//!
//! <https://www.rfc-editor.org/rfc/rfc8555>, <https://www.rfc-editor.org/rfc/rfc9773>

mod account;
mod answer;
mod call;
mod directory;
mod failure;
mod fence;
mod jws;
pub mod key;
mod lenient;
mod nonce;
mod order;
mod poll;
mod renewal_info;
mod revocation;
mod transport;

pub use account::{Eab, Opened, Session, Standing, new_account_record, next_key};
pub use directory::Directory;
pub use order::{Order, Resumed, Status, Unplaced};
pub use renewal_info::RenewalInfoAnswer;
pub use revocation::RevocationReason;
pub use transport::Transport;

#[cfg(test)]
mod fake;
