//! `[mta_sts]` as the rules of the policy cache take it.

use policy::sts::cache::{KeepSettings, OnFailure};

use crate::config::{self, MtaSts};

pub(super) fn settings(config: &MtaSts) -> KeepSettings {
    KeepSettings {
        dns_failure: on_failure(config.dns_failure),
        dns_failure_cap: config.dns_failure_cap,
        fetch_failure: on_failure(config.fetch_failure),
        refresh_every: config.refresh_every,
    }
}

fn on_failure(choice: config::OnFetchFailure) -> OnFailure {
    match choice {
        config::OnFetchFailure::Defer => OnFailure::Defer,
        config::OnFetchFailure::Deliver => OnFailure::Deliver,
    }
}
