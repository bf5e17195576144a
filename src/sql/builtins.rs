//! What PostgreSQL's own functions, operators and types mean to a read on a standby.
//!
//! In: names as the server folds them. Out: their class. Must not know statements or the catalogue. The names come from the
//! servers themselves (scripts/builtins.sh); the tables are laid out by the compiler, so a look-up allocates nothing.

mod table;

/// What a call of a built-in function means. Where overloads differ, the worst of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It changes something, or runs what its argument names.
    Acts,
    /// Its answer is about one node.
    Local,
    /// Any node may answer.
    Read,
}

/// The longest name a server keeps apart from others.
const LONGEST: usize = 64;

/// Names in one text, sorted by length; where the names of each length begin.
struct Names {
    text: &'static [u8],
    starts: [u16; LONGEST + 1],
}

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
impl Names {
    /// `text`: names with one space behind each, shorter ones first, those of one length in order.
    const fn new(text: &'static str) -> Self {
        let text = text.as_bytes();
        let mut starts = [0; LONGEST + 1];
        let (mut at, mut begin, mut length) = (0, 0, 0);
        while at < text.len() {
            if text[at] == b' ' {
                // Lengths that no name has begin where the next one does.
                while length < at - begin {
                    length += 1;
                    starts[length] = begin as u16;
                }
                begin = at + 1;
            }
            at += 1;
        }
        while length < LONGEST {
            length += 1;
            starts[length] = begin as u16;
        }
        Self { text, starts }
    }
}

impl Names {
    /// Whether `name` is one of them: a binary search among those of its length.
    fn contain(&self, name: &[u8]) -> bool {
        let length = name.len();
        let (Some(&start), Some(&end)) = (self.starts.get(length), self.starts.get(length + 1)) else {
            return false;
        };
        let same_length = self.text.get(usize::from(start)..usize::from(end)).unwrap_or_default();
        let at = |place: usize| same_length.get(place * (length + 1)..).and_then(|rest| rest.get(..length));
        let (mut low, mut high) = (0, same_length.len() / (length + 1));
        while low < high {
            let middle = low.midpoint(high);
            match at(middle).map(|one| one.cmp(name)) {
                Some(std::cmp::Ordering::Equal) => return true,
                Some(std::cmp::Ordering::Less) => low = middle + 1,
                _ => high = middle,
            }
        }
        false
    }
}

static ACTS: Names = Names::new(table::ACTS);
static LOCAL: Names = Names::new(table::LOCAL);
static READ: Names = Names::new(table::READ);
static OPERATORS: Names = Names::new(table::OPERATORS);
static TYPES: Names = Names::new(table::TYPES);

/// What a call of the built-in function `name` means; none when there is no such function, or none that is meant to be
/// called by name.
pub fn function(name: &[u8]) -> Option<Class> {
    if READ.contain(name) {
        Some(Class::Read)
    } else if LOCAL.contain(name) {
        Some(Class::Local)
    } else if ACTS.contain(name) {
        Some(Class::Acts)
    } else {
        None
    }
}

/// Whether PostgreSQL has an operator of that name.
pub fn is_operator(sign: &[u8]) -> bool {
    OPERATORS.contain(sign)
}

/// Whether PostgreSQL has a type of that name in `pg_catalog`.
pub fn is_type(name: &[u8]) -> bool {
    TYPES.contain(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found() {
        for (names, text) in [
            (&ACTS, table::ACTS),
            (&LOCAL, table::LOCAL),
            (&READ, table::READ),
            (&OPERATORS, table::OPERATORS),
            (&TYPES, table::TYPES),
        ] {
            assert!(text.len() < usize::from(u16::MAX) && text.ends_with(' '));
            let all: Vec<_> = text.split_terminator(' ').collect();
            assert!(all.is_sorted_by_key(|name| (name.len(), *name)), "not in order");
            assert!(all.iter().all(|name| !name.is_empty() && names.contain(name.as_bytes())));
            let (first, last) = (all[0], all[all.len() - 1]);
            for other in
                [format!("{first}x"), format!("{last}x"), format!("x{last}"), String::new(), "x".repeat(200)]
            {
                assert!(!names.contain(other.as_bytes()), "{other}");
            }
        }
    }

    #[test]
    fn classes_are_those_that_were_meant() {
        let all = |names: &str, class: Option<Class>| {
            for name in names.split_whitespace() {
                assert_eq!(function(name.as_bytes()), class, "{name}");
            }
        };
        all(
            "now random clock_timestamp count lower upper left substring jsonb_build_object row_number \
             generate_series unnest to_char current_setting version gen_random_uuid txid_current_if_assigned \
             pg_sleep format_type pg_get_viewdef has_table_privilege json_object current_timestamp \
             current_schemas pg_is_in_recovery bernoulli to_tsvector length timezone",
            Some(Class::Read),
        );
        all(
            "nextval setval currval lastval set_config setseed pg_notify pg_advisory_lock \
             pg_try_advisory_xact_lock_shared txid_current pg_current_xact_id lo_create lowrite lo_get \
             pg_switch_wal pg_export_snapshot pg_create_physical_replication_slot pg_terminate_backend \
             pg_logical_emit_message query_to_xml table_to_xml ts_stat ts_rewrite pg_reload_conf \
             pg_logical_slot_get_changes pg_input_is_valid pg_promote pg_sequence_last_value",
            Some(Class::Acts),
        );
        all(
            "pg_backend_pid inet_server_addr inet_client_port pg_postmaster_start_time \
             pg_last_wal_replay_lsn pg_current_wal_lsn pg_current_wal_insert_lsn pg_walfile_name \
             pg_stat_get_activity pg_lock_status pg_current_snapshot pg_read_file pg_ls_dir \
             pg_control_checkpoint pg_conf_load_time pg_database_size pg_show_all_settings \
             pg_get_replication_slots pg_blocking_pids txid_current_snapshot pg_listening_channels",
            Some(Class::Local),
        );
        all("textin no_such_function int4pl plpgsql_call_handler NOW", None);
        assert!(is_operator(b"=") && is_operator(b"@>") && is_operator(b"<>") && !is_operator(b"@@@@"));
        assert!(is_type(b"int4") && is_type(b"text") && is_type(b"regclass") && is_type(b"int4range"));
        assert!(!is_type(b"citext") && !is_type(b"internal") && !is_type(b"_int4"));
    }
}
