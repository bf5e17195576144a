//! The queries that load a catalogue: five texts, each about one kind of [`super::Facts`].
//!
//! In: nothing. Out: SQL for PostgreSQL 14 and later. Must not know who runs it. Any role that may connect can run all of
//! them: they read only what every role may read. They must see one state of the database: run them in one transaction,
//! `BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY`, on the primary or on a standby.

/// Functions, aggregates and window functions that are not PostgreSQL's own: OID, schema, name, whether volatile, whether a
/// row may be the only argument. Procedures are left out: only CALL runs them.
pub const FUNCTIONS: &str = "\
SELECT p.oid, n.nspname::text, p.proname::text, p.provolatile = 'v',
    (p.pronargs - p.pronargdefaults <= 1 AND p.pronargs >= 1 AND EXISTS (
        SELECT FROM pg_catalog.pg_type t WHERE t.oid = p.proargtypes[0] AND t.typtype IN ('c', 'd', 'p')))
FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE p.prokind <> 'p' AND (p.oid >= 16384 OR n.nspname <> 'pg_catalog')";

/// Relations that can be read: OID, schema, name, kind, whether unlogged. Temporary ones are left out: a session that has any
/// stays where it made them.
pub const RELATIONS: &str = "\
SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence = 'u'
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND c.relpersistence <> 't'
    AND n.nspname !~ '^pg_(toast|temp_|toast_temp_)'";

/// Types that are not PostgreSQL's own, the row types of relations among them: OID, schema, name.
pub const TYPES: &str = "\
SELECT t.oid, n.nspname::text, t.typname::text
FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
WHERE (t.oid >= 16384 OR n.nspname <> 'pg_catalog') AND n.nspname !~ '^pg_(toast|temp_|toast_temp_)'";

/// Operators that are not PostgreSQL's own: OID, name.
pub const OPERATORS: &str = "SELECT oid, oprname::text FROM pg_catalog.pg_operator WHERE oid >= 16384";

/// Who uses what when it is evaluated: the user's letter and OID, the used thing's letter and OID, and for a function of
/// PostgreSQL's own its name and whether it is volatile. Letters as in [`super::Node::of`].
///
/// Dependencies on PostgreSQL's own functions are recorded nowhere, so those of views, policies, checks of domains and
/// defaults of arguments are read out of the stored trees. A type is said to use the functions of its casts, operators and
/// operator classes, since no text need show that they are called; between two types of PostgreSQL's own an operator is only
/// called where its name is seen.
pub const USES: &str = r"
WITH tree (kind, oid, body) AS (
    SELECT 'r', ev_class, ev_action::text FROM pg_catalog.pg_rewrite WHERE ev_type = '1'
    UNION ALL
    SELECT 'r', polrelid, polqual::text FROM pg_catalog.pg_policy
    WHERE polcmd IN ('r', '*') AND polqual IS NOT NULL
    UNION ALL
    SELECT 't', contypid, conbin::text FROM pg_catalog.pg_constraint
    WHERE contypid <> 0 AND conbin IS NOT NULL
    UNION ALL
    SELECT 'f', oid, proargdefaults::text FROM pg_catalog.pg_proc
    WHERE oid >= 16384 AND proargdefaults IS NOT NULL
), use (kind, oid, used_kind, used) AS (
    SELECT kind, oid, CASE WHEN part[1] = 'relid' THEN 'r' WHEN part[1] LIKE '%type' THEN 't' ELSE 'f' END,
        part[2]::oid
    FROM tree, regexp_matches(body, ':(relid|funcid|opfuncid|aggfnoid|winfnoid|tsmhandler|\w*type) ([1-9]\d*)', 'g') part
    UNION ALL
    SELECT 'r', inhparent, 'r', inhrelid FROM pg_catalog.pg_inherits
    UNION ALL
    SELECT 'r', oid, 't', reltype FROM pg_catalog.pg_class WHERE reltype >= 16384
    UNION ALL
    SELECT 'r', a.attrelid, 't', a.atttypid FROM pg_catalog.pg_attribute a
    JOIN pg_catalog.pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
    WHERE a.attnum > 0 AND NOT a.attisdropped AND a.atttypid >= 16384
    UNION ALL
    SELECT 't', t.oid, 't', a.atttypid FROM pg_catalog.pg_type t
    JOIN pg_catalog.pg_attribute a ON a.attrelid = t.typrelid
    WHERE t.typrelid <> 0 AND a.attnum > 0 AND NOT a.attisdropped AND a.atttypid >= 16384
    UNION ALL
    SELECT 't', t.oid, 't', part FROM pg_catalog.pg_type t, unnest(ARRAY[t.typelem, t.typbasetype]) part
    WHERE part >= 16384
    UNION ALL
    SELECT 't', t.oid, 'f', part FROM pg_catalog.pg_type t, unnest(ARRAY[t.typinput::oid, t.typoutput::oid]) part
    WHERE t.oid >= 16384 AND part >= 16384
    UNION ALL
    SELECT 't', r.rngtypid, 't', r.rngsubtype FROM pg_catalog.pg_range r WHERE r.rngsubtype >= 16384
    UNION ALL
    SELECT 't', r.rngmultitypid, 't', r.rngtypid FROM pg_catalog.pg_range r WHERE r.rngtypid >= 16384
    UNION ALL
    SELECT 't', r.rngtypid, 'f', part
    FROM pg_catalog.pg_range r, unnest(ARRAY[r.rngcanonical::oid, r.rngsubdiff::oid]) part
    WHERE r.rngtypid >= 16384 AND part <> 0
    UNION ALL
    SELECT 't', part, 'f', c.castfunc FROM pg_catalog.pg_cast c, unnest(ARRAY[c.castsource, c.casttarget]) part
    WHERE c.oid >= 16384 AND c.castfunc <> 0
        AND (part >= 16384 OR (c.castsource < 16384 AND c.casttarget < 16384))
    UNION ALL
    SELECT 't', part, 'f', o.oprcode::oid FROM pg_catalog.pg_operator o, unnest(ARRAY[o.oprleft, o.oprright]) part
    WHERE o.oid >= 16384 AND part >= 16384 AND o.oprcode <> 0
    UNION ALL
    SELECT 'o', o.oid, 'f', o.oprcode::oid FROM pg_catalog.pg_operator o WHERE o.oid >= 16384 AND o.oprcode <> 0
    UNION ALL
    SELECT 't', part, 'f', a.amproc::oid
    FROM pg_catalog.pg_amproc a, unnest(ARRAY[a.amproclefttype, a.amprocrighttype]) part
    WHERE a.oid >= 16384 AND part >= 16384
    UNION ALL
    SELECT 'f', p.oid, 't', part FROM pg_catalog.pg_proc p,
        unnest(p.proargtypes::oid[] || p.prorettype || coalesce(p.proallargtypes, '{}')) part
    WHERE p.oid >= 16384 AND part >= 16384
    UNION ALL
    SELECT 'f', a.aggfnoid::oid, 'f', part FROM pg_catalog.pg_aggregate a, unnest(ARRAY[
        a.aggtransfn::oid, a.aggfinalfn::oid, a.aggcombinefn::oid, a.aggserialfn::oid, a.aggdeserialfn::oid,
        a.aggmtransfn::oid, a.aggminvtransfn::oid, a.aggmfinalfn::oid]) part
    WHERE a.aggfnoid >= 16384 AND part <> 0
)
SELECT DISTINCT u.kind, u.oid, u.used_kind, u.used, p.proname::text, coalesce(p.provolatile = 'v', false)
FROM use u LEFT JOIN pg_catalog.pg_proc p ON u.used_kind = 'f' AND p.oid = u.used AND p.oid < 16384
WHERE (u.kind <> u.used_kind OR u.oid <> u.used) AND CASE u.used_kind
    WHEN 'r' THEN true
    WHEN 't' THEN u.used >= 16384
    ELSE u.used >= 16384 OR p.provolatile <> 'i' OR p.proname LIKE 'pg\_%' END";
