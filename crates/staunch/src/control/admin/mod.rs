//! What the command line asks: HTTP over a unix socket that only the operator's group may open.
//!
//! Answers are JSON; what may be long comes as one object a line, read from the store page by page,
//! so that a queue of a million costs no memory. An error is `{"error": "…"}`.

mod answer;
mod chosen;
mod clock;
mod debug;
mod dry_run;
mod header;
mod listener;
mod policies;
mod queue;
mod ranking;
mod summary;
mod switches;
mod transfer;
mod unmatched;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::{self, Body};
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use spool::Health;
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::control::Control;
use crate::control::api::{
    Explanation, MemoryUse, NotReady, OpenAddresses, Readiness, Reloaded, ResolverState, StoreState,
};
use crate::control::explain::{self, ExplainQuestion};
use crate::control::facts::ControlFact;
use crate::dns::ServerState;
use crate::socket_file::{self, MayOpen};
use answer::{AdminPeer, AdminRefused};
use listener::AdminListener;

/// Owner and group; others have no business with the queue.
const SOCKET_MODE: u32 = 0o660;
/// The group that may use the command line, where the system has it.
const SOCKET_GROUP: &str = "staunch-admin";

/// Octets of a request to change something. Our choice: the ids of 60,000 messages, more than fit
/// on a command line.
const REQUEST_OCTETS_MAX: usize = 2 << 20;
/// How long whoever has asked, or is about to, may hold up the end of the daemon. Our choice:
/// answers take milliseconds; what takes longer is done to its end without this.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// The socket of the command line cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("admin.socket: {}: {source}", path.display())]
pub(crate) struct AdminSocketError {
    /// Where it should be.
    pub(crate) path: PathBuf,
    /// What the system said.
    pub(crate) source: io::Error,
}

/// Opens the socket at `path`. A socket that a daemon left behind is replaced; one that somebody
/// still answers is not, since two daemons with data directories of their own may be given the same
/// path.
///
/// # Errors
///
/// [`AdminSocketError`].
pub(crate) fn bind(path: &Path) -> Result<UnixListener, AdminSocketError> {
    let failed = |source| AdminSocketError { path: path.to_owned(), source };
    let may_open = MayOpen { mode: SOCKET_MODE, group: group_id(SOCKET_GROUP) };
    socket_file::listen(path, may_open).map_err(failed)
}

/// From the group file: a static binary has no other way.
fn group_id(name: &str) -> Option<u32> {
    let groups = std::fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

/// Answers until `stop`; then who has asked gets a last answer.
pub(crate) async fn serve(listener: UnixListener, control: Arc<Control>, stop: CancellationToken) {
    let service = router(control).into_make_service_with_connect_info::<AdminPeer>();
    let service = axum::serve(AdminListener::new(listener), service);
    let service = service.with_graceful_shutdown(stop.clone().cancelled_owned());
    let patience = async {
        stop.cancelled().await;
        tokio::time::sleep(LAST_ANSWERS).await;
    };
    tokio::select! {
        result = service => if let Err(error) = result {
            ControlFact::AdminFailed { error: &error }.tell();
        },
        () = patience => {}
    }
}

fn router(control: Arc<Control>) -> Router {
    acts()
        .layer(middleware::from_fn_with_state(Arc::clone(&control), to_the_end))
        .merge(looks())
        // It is as long as the message is, and ends itself what it begins.
        .route("/v1/queue/import", post(transfer::import).layer(DefaultBodyLimit::disable()))
        .with_state(control)
}

/// What only looks.
fn looks() -> Router<Arc<Control>> {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/v1/listeners", get(listeners))
        .route("/v1/queue", get(queue::list))
        .route("/v1/queue/summary", get(summary::summary))
        .route("/v1/queue/{id}", get(queue::show))
        .route("/v1/queue/{id}/body", get(queue::body))
        // A way of its own: a daemon that does not know it does nothing.
        .route("/v1/queue/{id}/dry-run", post(dry_run::count))
        .route("/v1/policies", get(policies::list))
        .route("/v1/policies/{domain}", get(policies::show))
}

/// What changes something.
fn acts() -> Router<Arc<Control>> {
    Router::new()
        .route("/v1/queue/retry", post(queue::retry))
        .route("/v1/queue/hold", post(queue::hold))
        .route("/v1/queue/release", post(queue::release))
        .route("/v1/queue/bounce", post(queue::bounce))
        .route("/v1/queue/delete", post(queue::delete))
        .route("/v1/pause", post(switches::pause))
        .route("/v1/resume", post(switches::resume))
        .route("/v1/drain", post(switches::drain).delete(switches::accept))
        .route("/v1/policies/{domain}", delete(policies::forget))
        .route("/v1/hosts/{host}", delete(policies::forget_host))
        .route("/v1/policies/{domain}/refresh", post(policies::refresh))
        .route("/v1/debug", post(debug::debug))
        .route("/v1/clock/trust", post(clock::trust))
        .route("/v1/reload", post(reload))
        // It may learn a policy: stored halfway, neither memory nor the attempts under way would
        // know of it.
        .route("/v1/explain", get(explained))
}

/// What was begun is done, also when whoever asked goes away: halfway, the store would know of a
/// change that the queue was not told.
async fn to_the_end(State(control): State<Arc<Control>>, request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    // Before it begins: a request that never comes whole is nothing that the end of the daemon
    // waits for.
    let Ok(body) = body::to_bytes(body, REQUEST_OCTETS_MAX).await else {
        return AdminRefused::bad("the request is too long, or broke off").into_response();
    };
    let request = Request::from_parts(head, Body::from(body));
    let done = control.queue.tracker.spawn(next.run(request)).await;
    done.unwrap_or_else(|_| AdminRefused::failed("the request ended in a bug").into_response())
}

/// Is everything there that is needed to take mail?
async fn ready(State(control): State<Arc<Control>>) -> Response {
    let store = match control.queue.spool.health() {
        Health::Good => StoreState::Good,
        Health::NoReserve => StoreState::DiskFull,
        Health::Detached => StoreState::Detached,
        Health::ReadOnly => StoreState::ReadOnly,
        Health::Poisoned => StoreState::Poisoned,
    };
    let config = control.queue.config();
    let free = control.queue.free.seen();
    let not_ready: Vec<NotReady> = [
        (store != StoreState::Good, NotReady::Store),
        (control.queue.broken.is_cancelled(), NotReady::Queue),
        (free < config.limits.disk_free_min, NotReady::DiskSpace),
        (control.queue.switches.off().accepting.is_some(), NotReady::Draining),
    ]
    .into_iter()
    .filter_map(|(is_so, why)| is_so.then_some(why))
    .collect();
    let is_ready = not_ready.is_empty();
    let memory = control.queue.budget.usage();
    let body = Readiness {
        ready: is_ready,
        not_ready,
        store,
        free_bytes: free,
        memory: MemoryUse { lent: memory.lent, peak: memory.peak, limit: memory.limit },
        queued_messages: control.queue.messages.load(Ordering::Relaxed),
        hostname: config.hostname.to_string(),
        clock_suspect: clock::suspect(&control),
        complaints: config
            .hostname
            .complaint()
            .map(|complaint| format!("hostname {:?} {complaint}", config.hostname.to_string()))
            .into_iter()
            .collect(),
        resolvers: control.queue.outbound.dns.servers().iter().map(resolver).collect(),
        switches: switches::shown(&control),
    };
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(body)).into_response()
}

fn resolver(server: &ServerState) -> ResolverState {
    ResolverState {
        address: server.address.to_string(),
        state: server.state.as_str().to_owned(),
        edns: server.edns,
        fault: server.fault.as_deref().map(str::to_owned),
    }
}

/// Where clients can come in.
async fn listeners(State(control): State<Arc<Control>>) -> Json<OpenAddresses> {
    Json(OpenAddresses { listening: control.queue.outbound.listening.addresses() })
}

/// Waits until the configuration was read again, and applied or refused.
async fn reload(State(control): State<Arc<Control>>) -> Result<Json<Reloaded>, AdminRefused> {
    let (asker, answer) = oneshot::channel();
    let ended = || AdminRefused::failed("the daemon is about to end");
    control.reloads.send(asker).await.map_err(|_| ended())?;
    match answer.await.map_err(|_| ended())? {
        Ok(done) => Ok(Json(done)),
        Err(text) => Err(AdminRefused { status: StatusCode::UNPROCESSABLE_ENTITY, text }),
    }
}

async fn explained(
    State(control): State<Arc<Control>>,
    Query(question): Query<ExplainQuestion>,
) -> Result<Json<Explanation>, AdminRefused> {
    explain::walk(&control.queue, question).await.map(Json).map_err(AdminRefused::bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_socket_that_nobody_answers_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let first = bind(&path).unwrap();
        let said = bind(&path).unwrap_err().to_string();
        assert!(said.ends_with("another daemon answers there"), "{said}");
        drop(first);
        drop(bind(&path).unwrap());

        let file = dir.path().join("mail");
        std::fs::write(&file, "precious").unwrap();
        assert!(bind(&file).is_err());
        assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    }
}
