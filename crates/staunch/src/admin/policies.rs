//! The policy cache, looked at and changed.

use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::{Value, json};
use smtp::HostName;

use super::{Refused, ask_store};
use crate::relay::Relay;

pub(super) async fn list(State(relay): State<Arc<Relay>>) -> Response {
    let pages = stream::try_unfold(Some(None::<String>), move |at| {
        let relay = Arc::clone(&relay);
        async move {
            let Some(after) = at else { return Ok(None) };
            let read = move |relay: &Relay| relay.policies.list(after.as_deref());
            let page = ask_store(&relay, read).await.map_err(|refused| refused.text)?;
            let mut lines = Vec::new();
            for policy in &page.policies {
                serde_json::to_writer(&mut lines, policy).map_err(|error| error.to_string())?;
                lines.push(b'\n');
            }
            Ok::<_, String>(Some((Bytes::from(lines), page.next.map(Some))))
        }
    });
    Body::from_stream(pages).into_response()
}

pub(super) async fn show(
    State(relay): State<Arc<Relay>>,
    Path(domain): Path<String>,
) -> Result<Response, Refused> {
    let domain = parse(&domain)?;
    let name = domain.to_string();
    match ask_store(&relay, move |relay| relay.policies.show(&domain)).await? {
        Some(detail) => Ok(Json(detail).into_response()),
        None => Err(Refused::missing(format!("nothing is known about {name}"))),
    }
}

pub(super) async fn refresh(
    State(relay): State<Arc<Relay>>,
    Path(domain): Path<String>,
) -> Result<Response, Refused> {
    let domain = parse(&domain)?;
    let result = relay.policies.refresh(&domain).await;
    Ok(Json(result).into_response())
}

pub(super) async fn forget(
    State(relay): State<Arc<Relay>>,
    Path(domain): Path<String>,
) -> Result<Json<Value>, Refused> {
    let domain = parse(&domain)?;
    if relay.policies.forget(&domain).await.map_err(Refused::failed)? {
        return Ok(Json(json!({ "forgotten": domain.as_str() })));
    }
    Err(Refused::missing(format!("nothing is known about {domain}")))
}

pub(super) async fn forget_host(
    State(relay): State<Arc<Relay>>,
    Path(host): Path<String>,
) -> Result<Json<Value>, Refused> {
    let host = parse(&host)?;
    if relay.hosts.forget(&host).await.map_err(Refused::failed)? {
        return Ok(Json(json!({ "forgotten": host.as_str() })));
    }
    Err(Refused::missing(format!("nothing is known about {host}")))
}

fn parse(domain: &str) -> Result<HostName, Refused> {
    HostName::parse(domain).map_err(|error| Refused::bad(format!("{domain:?}: {error}")))
}
