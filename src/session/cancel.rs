//! Cancel requests: from the key a client was told to the backend its session has at this instant.
//!
//! A wrong key is passed over in silence, as a server does. The backend is not used by anybody else before the request
//! has arrived at its server.

use super::context::Context;
use super::directory::Signal;
use crate::metrics::Counter;

/// Forwards one request.
pub async fn forward(ctx: &Context, pid: i32, key: &[u8]) {
    let Some(entry) = ctx.directory.by_cancel_key(pid, key) else {
        ctx.metrics.count(Counter::CancelUnknownKey);
        return;
    };
    entry.mailbox.send(Signal::Cancel);
    if entry.is_held() {
        // Its statement has gone nowhere. A backend the session may still have is on a silent node: the client, which waits
        // for the end of this connection, would wait for that node.
        ctx.metrics.count(Counter::CancelWaiting);
        return;
    }
    let Some((leased, pass)) = entry.cancel() else {
        // Nothing runs: as on a server, there is nothing to cancel.
        ctx.metrics.count(Counter::CancelIgnored);
        return;
    };
    ctx.registry.cancel(leased.node, leased.pid, &leased.key).await;
    drop(pass);
}
