//! The policy cache, looked at and changed.

use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use smtp::HostName;

use super::answer::{AdminRefused, ask_store};
use crate::control::Control;
use crate::control::api::{Forgotten, PolicyDetail, RefreshResult};

pub(super) async fn list(State(control): State<Arc<Control>>) -> Response {
    let pages = stream::try_unfold(Some(None::<String>), move |at| {
        let control = Arc::clone(&control);
        async move {
            let Some(after) = at else { return Ok(None) };
            let read =
                move |control: &Control| control.queue.outbound.policies.list(after.as_deref());
            let page = ask_store(&control, read).await.map_err(|refused| refused.text)?;
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
    State(control): State<Arc<Control>>,
    Path(domain): Path<String>,
) -> Result<Json<PolicyDetail>, AdminRefused> {
    let domain = parse(&domain)?;
    let name = domain.to_string();
    match ask_store(&control, move |control| control.queue.outbound.policies.show(&domain)).await? {
        Some(detail) => Ok(Json(detail)),
        None => Err(AdminRefused::missing(format!("nothing is known about {name}"))),
    }
}

pub(super) async fn refresh(
    State(control): State<Arc<Control>>,
    Path(domain): Path<String>,
) -> Result<Json<RefreshResult>, AdminRefused> {
    let domain = parse(&domain)?;
    Ok(Json(control.queue.outbound.policies.refresh(&domain).await))
}

pub(super) async fn forget(
    State(control): State<Arc<Control>>,
    Path(domain): Path<String>,
) -> Result<Json<Forgotten>, AdminRefused> {
    let domain = parse(&domain)?;
    if control.queue.outbound.policies.forget(&domain).await.map_err(AdminRefused::failed)? {
        return Ok(Json(Forgotten { forgotten: domain.to_string() }));
    }
    Err(AdminRefused::missing(format!("nothing is known about {domain}")))
}

pub(super) async fn forget_host(
    State(control): State<Arc<Control>>,
    Path(host): Path<String>,
) -> Result<Json<Forgotten>, AdminRefused> {
    let host = parse(&host)?;
    if control.queue.outbound.hosts.forget(&host).await.map_err(AdminRefused::failed)? {
        return Ok(Json(Forgotten { forgotten: host.to_string() }));
    }
    Err(AdminRefused::missing(format!("nothing is known about {host}")))
}

fn parse(domain: &str) -> Result<HostName, AdminRefused> {
    HostName::parse(domain).map_err(|error| AdminRefused::bad(format!("{domain:?}: {error}")))
}
