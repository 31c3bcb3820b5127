//! What came up, and how often: without it a run proves nothing.

macro_rules! coverage {
    ($($field:ident: $text:literal,)*) => {
        /// How often what has to come up came up.
        #[derive(Clone, Debug, Default)]
        pub(crate) struct Coverage { $(pub(crate) $field: u64,)* }

        impl Coverage {
            pub(crate) fn add(&mut self, other: &Self) { $(self.$field += other.$field;)* }

            /// Returns how many came up too rarely.
            pub(crate) fn print(&self, sequences: u64, min: u64) -> u64 {
                let mut missing = 0;
                $(
                    let is_missing = self.$field * 100_000 < min * sequences;
                    missing += u64::from(is_missing);
                    let mark = if is_missing { "  TOO FEW" } else { "" };
                    println!("{:>9}  {}{mark}", self.$field, $text);
                )*
                missing
            }
        }
    };
}

coverage! {
    mails: "mails sent",
    mails_under_policy: "of them while a policy that was got had to hold",
    refused_hosts: "hosts refused",
    learnt_at_policy: "requirement changed while a try was at: policy",
    learnt_at_mx: "requirement changed while a try was at: MX",
    learnt_at_host: "requirement changed while a try was at: host",
    learnt_at_connected: "requirement changed while a try was at: connected",
    learnt_before_mail: "requirement changed while a try was at: before MAIL",
    crash_in_replace: "crash between the writes of a replacement",
    evicted_beside_mail: "eviction with mail queued",
    suspect_fetch: "policy fetched by a clock in doubt",
    suspect: "clock became suspect",
    trusted_again: "clock trusted again",
    lost_no_record: "lost policy, and the record says that there is none",
    contested_dead_ends: "dead ends that a policy contradicts",
    bounces: "mails returned",
    disk_full: "writes that failed",
    unstored: "policies that held although their row could not be written",
    counts_for_more: "policies that were to go and count for more meanwhile",
}
