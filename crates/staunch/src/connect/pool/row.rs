//! Which unused connection has waited longest, of all or of one site? Plain data under the pool's
//! lock.

use std::collections::{BTreeMap, VecDeque};

use tokio::time::Instant;

use crate::connect::PoolKey;

/// A connection that was parked. It may be in use again.
#[derive(Debug)]
pub(super) struct ParkedEntry {
    /// When its time is over.
    pub(super) until: Instant,
    /// The host, and as whom we come, that it leads to.
    pub(super) key: PoolKey,
    /// Which one; those that were parked later have greater numbers.
    pub(super) serial: u64,
}

/// Where room is missing.
#[derive(Clone, Copy, Debug)]
pub(super) enum MissingRoom {
    InPool,
    AtSite(usize),
}

/// What was parked, first come first; each site's by itself, so that nobody has to look through all
/// of it for one of them. The rest of the world counts as a site, too, and there are few of them.
#[derive(Debug, Default)]
pub(super) struct ParkedRow {
    by_site: BTreeMap<Option<usize>, VecDeque<ParkedEntry>>,
}

impl ParkedRow {
    /// One more, behind all others.
    pub(super) fn push(&mut self, site: Option<usize>, entry: ParkedEntry) {
        self.by_site.entry(site).or_default().push_back(entry);
    }

    /// When the next time is over.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.firsts().map(|(_, entry)| entry.until).min()
    }

    /// The next one whose time `is_over`.
    pub(super) fn pop_over(&mut self, is_over: impl Fn(Instant) -> bool) -> Option<ParkedEntry> {
        let site = self.firsts().find(|(_, entry)| is_over(entry.until)).map(|(site, _)| site)?;
        self.by_site.get_mut(&site)?.pop_front()
    }

    /// The one that was parked first.
    pub(super) fn pop_oldest(&mut self, room: MissingRoom) -> Option<ParkedEntry> {
        let site = match room {
            MissingRoom::AtSite(site) => Some(site),
            MissingRoom::InPool => self.firsts().min_by_key(|(_, entry)| entry.serial)?.0,
        };
        self.by_site.get_mut(&site)?.pop_front()
    }

    /// The sites are others now.
    pub(super) fn sort_anew(&mut self, site_of: impl Fn(&PoolKey) -> Option<usize>) {
        let before = std::mem::take(&mut self.by_site);
        let mut entries: Vec<ParkedEntry> = before.into_values().flatten().collect();
        entries.sort_unstable_by_key(|entry| entry.serial);
        for entry in entries {
            self.push(site_of(&entry.key), entry);
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.by_site.values().map(VecDeque::len).sum()
    }

    /// Drops those that do not count any more.
    pub(super) fn retain(&mut self, counts: impl Fn(&ParkedEntry) -> bool) {
        for entries in self.by_site.values_mut() {
            entries.retain(&counts);
        }
    }

    fn firsts(&self) -> impl Iterator<Item = (Option<usize>, &ParkedEntry)> {
        self.by_site.iter().filter_map(|(site, entries)| Some((*site, entries.front()?)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use smtp::{Domain, HostName};

    use super::*;
    use crate::connect::{Endpoint, Sources};

    fn entry(serial: u64, start: Instant) -> ParkedEntry {
        let host = Domain::Name(HostName::parse(&format!("mx{serial}.test")).unwrap());
        let key =
            PoolKey { route: None, sources: Sources::default(), host, endpoint: Endpoint::mx(25) };
        ParkedEntry { until: start + Duration::from_secs(serial), key, serial }
    }

    fn row(sites: &[Option<usize>], start: Instant) -> ParkedRow {
        let mut row = ParkedRow::default();
        for (site, serial) in sites.iter().zip(0..) {
            row.push(*site, entry(serial, start));
        }
        row
    }

    #[test]
    fn the_oldest_is_found_of_a_site_and_of_all() {
        let mut row = row(&[None, Some(1), None, Some(0), Some(1)], Instant::now());
        let mut oldest = |room| row.pop_oldest(room).map(|entry| entry.serial);
        assert_eq!(oldest(MissingRoom::AtSite(1)), Some(1));
        assert_eq!(oldest(MissingRoom::InPool), Some(0));
        assert_eq!(oldest(MissingRoom::AtSite(0)), Some(3));
        assert_eq!(oldest(MissingRoom::AtSite(0)), None);
        assert_eq!([oldest(MissingRoom::InPool), oldest(MissingRoom::InPool)], [Some(2), Some(4)]);
        assert_eq!(oldest(MissingRoom::InPool), None);
    }

    #[test]
    fn time_is_over_in_all_sites_alike() {
        let start = Instant::now();
        let mut row = row(&[Some(0), None, Some(0), None], start);
        assert_eq!(row.next_end(), Some(start));
        let now = start + Duration::from_secs(2);
        let mut over = std::iter::from_fn(|| row.pop_over(|until| until <= now))
            .map(|entry| entry.serial)
            .collect::<Vec<_>>();
        over.sort_unstable();
        assert_eq!((over, row.next_end()), (vec![0, 1, 2], Some(start + Duration::from_secs(3))));
    }

    #[test]
    fn other_sites_keep_the_order() {
        let mut row = row(&[Some(0), Some(1), Some(0), None], Instant::now());
        row.sort_anew(|_| Some(7));
        let order = std::iter::from_fn(|| row.pop_oldest(MissingRoom::AtSite(7)));
        assert_eq!(order.map(|entry| entry.serial).collect::<Vec<_>>(), [0, 1, 2, 3]);
    }
}
