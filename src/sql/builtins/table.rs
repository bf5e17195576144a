//! What PostgreSQL 14 15 16 17 18 bring along. Made by scripts/builtins.sh; do not edit.
//!
//! In: nothing. Out: names, shorter ones first. Must not know what is done with them.

/// Functions that change something, or run what their argument names.
pub(super) const ACTS: &str = "\
    lo_get lo_put loread setval currval lastval lo_open lo_tell lowrite nextval setseed ts_stat currtid2 lo_close \
    lo_creat lo_lseek lo_create lo_export lo_import lo_tell64 lo_unlink pg_notify amvalidate lo_lseek64 pg_nextoid \
    pg_promote set_config ts_rewrite lo_truncate query_to_xml table_to_xml txid_current cursor_to_xml lo_from_bytea \
    lo_truncate64 pg_switch_wal schema_to_xml pg_backup_stop pg_reload_conf pg_stop_backup database_to_xml \
    pg_backup_start pg_start_backup pg_advisory_lock pg_cancel_backend pg_input_is_valid pg_rotate_logfile \
    plpgsql_validator pg_advisory_unlock pg_current_xact_id pg_export_snapshot query_to_xmlschema \
    table_to_xmlschema cursor_to_xmlschema pg_input_error_info schema_to_xmlschema brin_summarize_range \
    pg_get_sequence_data pg_terminate_backend pg_try_advisory_lock database_to_xmlschema pg_advisory_xact_lock \
    pg_rotate_logfile_old brin_desummarize_range gin_clean_pending_list pg_advisory_unlock_all \
    pg_sequence_last_value pg_advisory_lock_shared pg_clear_relation_stats pg_create_restore_point \
    pg_log_standby_snapshot pg_logical_emit_message pg_wal_summary_contents pg_clear_attribute_stats \
    pg_drop_replication_slot pg_extension_config_dump pg_get_multixact_members brin_summarize_new_values \
    pg_advisory_unlock_shared pg_restore_relation_stats pg_sync_replication_slots pg_try_advisory_xact_lock \
    pg_restore_attribute_stats query_to_xml_and_xmlschema table_to_xml_and_xmlschema pg_import_system_collations \
    pg_logical_slot_get_changes pg_try_advisory_lock_shared schema_to_xml_and_xmlschema \
    pg_advisory_xact_lock_shared pg_logical_slot_peek_changes database_to_xml_and_xmlschema \
    pg_stop_making_pinned_objects pg_log_backend_memory_contexts pg_copy_logical_replication_slot \
    pg_try_advisory_xact_lock_shared pg_copy_physical_replication_slot pg_create_logical_replication_slot \
    pg_logical_slot_get_binary_changes pg_create_physical_replication_slot pg_logical_slot_peek_binary_changes \
    pg_isolation_test_session_is_blocked \
    ";

/// Functions about one node.
pub(super) const LOCAL: &str = "\
    pg_config pg_cursor pg_ls_dir pg_get_aios txid_status pg_ls_logdir pg_ls_tmpdir pg_ls_waldir pg_read_file \
    pg_stat_file pg_stat_reset pg_table_size pg_backend_pid pg_lock_status pg_stat_get_io pg_xact_status \
    pg_control_init pg_indexes_size pg_is_in_backup pg_stat_get_wal pg_walfile_name inet_client_addr \
    inet_client_port inet_server_addr inet_server_port pg_blocking_pids pg_database_size pg_jit_available \
    pg_prepared_xact pg_read_file_old pg_relation_size pg_stat_get_slru pg_conf_load_time pg_control_system \
    pg_hba_file_rules pg_ls_replslotdir pg_numa_available pg_current_logfile pg_current_wal_lsn \
    pg_get_wait_events pg_ls_summariesdir pg_stat_have_stats pg_stat_reset_slru pg_tablespace_size \
    pg_control_recovery pg_current_snapshot pg_ls_logicalmapdir pg_read_binary_file pg_wal_replay_pause \
    pg_backup_start_time pg_ls_logicalsnapdir pg_show_all_settings pg_stat_get_activity pg_stat_get_archiver \
    pg_stat_get_lastscan pg_stat_get_numscans pg_stat_reset_shared pg_wal_replay_resume pg_control_checkpoint \
    pg_get_loaded_modules pg_listening_channels pg_prepared_statement pg_split_walfile_name pg_stat_get_buf_alloc \
    txid_current_snapshot pg_ident_file_mappings pg_last_committed_xact pg_last_wal_replay_lsn \
    pg_stat_clear_snapshot pg_stat_get_backend_io pg_stat_get_blocks_hit pg_tablespace_location \
    pg_total_relation_size pg_walfile_name_offset pg_available_extensions pg_is_wal_replay_paused \
    pg_last_wal_receive_lsn pg_ls_archive_statusdir pg_stat_get_backend_pid pg_stat_get_backend_wal \
    pg_stat_get_db_sessions pg_stat_get_dead_tuples pg_stat_get_live_tuples pg_stat_get_wal_senders \
    pg_tablespace_databases pg_current_wal_flush_lsn pg_get_replication_slots pg_get_shmem_allocations \
    pg_postmaster_start_time pg_stat_force_next_flush pg_stat_get_backend_dbid pg_stat_get_db_deadlocks \
    pg_stat_get_subscription pg_stat_get_vacuum_count pg_stat_get_wal_receiver pg_xact_commit_timestamp \
    pg_current_wal_insert_lsn pg_extension_update_paths pg_replication_origin_oid pg_show_all_file_settings \
    pg_stat_get_analyze_count pg_stat_get_backend_idset pg_stat_get_backend_start pg_stat_get_db_blocks_hit \
    pg_stat_get_db_temp_bytes pg_stat_get_db_temp_files pg_stat_get_progress_info pg_stat_get_xact_numscans \
    pg_available_wal_summaries pg_replication_origin_drop pg_stat_get_backend_userid pg_stat_get_blocks_fetched \
    pg_stat_get_db_active_time pg_stat_get_db_numbackends pg_stat_get_db_xact_commit pg_stat_get_function_calls \
    pg_stat_get_tuples_deleted pg_stat_get_tuples_fetched pg_stat_get_tuples_updated pg_collation_actual_version \
    pg_get_wal_summarizer_state pg_notification_queue_usage pg_replication_slot_advance pg_stat_get_backend_subxact \
    pg_stat_get_db_conflict_all pg_stat_get_db_session_time pg_stat_get_tuples_inserted pg_stat_get_tuples_returned \
    pg_stat_get_xact_blocks_hit pg_stat_reset_backend_stats pg_get_wal_resource_managers \
    pg_replication_origin_create pg_stat_get_autovacuum_count pg_stat_get_backend_activity \
    pg_stat_get_db_blk_read_time pg_stat_get_db_conflict_lock pg_stat_get_db_xact_rollback \
    pg_stat_get_ins_since_vacuum pg_stat_get_last_vacuum_time pg_stat_get_replication_slot \
    pg_get_shmem_allocations_numa pg_get_wal_replay_pause_state pg_last_xact_replay_timestamp \
    pg_replication_origin_advance pg_stat_get_autoanalyze_count pg_stat_get_buf_fsync_backend \
    pg_stat_get_db_blk_write_time pg_stat_get_db_blocks_fetched pg_stat_get_db_sessions_fatal \
    pg_stat_get_db_tuples_deleted pg_stat_get_db_tuples_fetched pg_stat_get_db_tuples_updated \
    pg_stat_get_last_analyze_time pg_stat_get_mod_since_analyze pg_stat_get_recovery_prefetch \
    pg_stat_get_total_vacuum_time pg_get_backend_memory_contexts pg_replication_origin_progress \
    pg_safe_snapshot_blocking_pids pg_stat_get_backend_wait_event pg_stat_get_backend_xact_start \
    pg_stat_get_db_sessions_killed pg_stat_get_db_stat_reset_time pg_stat_get_db_tuples_inserted \
    pg_stat_get_db_tuples_returned pg_stat_get_function_self_time pg_stat_get_snapshot_timestamp \
    pg_stat_get_subscription_stats pg_stat_get_total_analyze_time pg_stat_get_tuples_hot_updated \
    pg_stat_reset_replication_slot pg_available_extension_versions pg_stat_get_backend_client_addr \
    pg_stat_get_backend_client_port pg_stat_get_buf_written_backend pg_stat_get_function_total_time \
    pg_stat_get_xact_blocks_fetched pg_stat_get_xact_function_calls pg_stat_get_xact_tuples_deleted \
    pg_stat_get_xact_tuples_fetched pg_stat_get_xact_tuples_updated pg_xact_commit_timestamp_origin \
    pg_replication_origin_xact_reset pg_replication_origin_xact_setup pg_stat_get_checkpoint_sync_time \
    pg_stat_get_db_checksum_failures pg_stat_get_db_conflict_snapshot pg_stat_get_last_autovacuum_time \
    pg_stat_get_xact_tuples_inserted pg_stat_get_xact_tuples_returned pg_stat_reset_subscription_stats \
    pg_show_replication_origin_status pg_stat_get_checkpoint_write_time pg_stat_get_db_conflict_bufferpin \
    pg_stat_get_db_sessions_abandoned pg_stat_get_last_autoanalyze_time pg_stat_get_total_autovacuum_time \
    pg_stat_get_backend_activity_start pg_stat_get_checkpointer_num_timed pg_stat_get_checkpointer_sync_time \
    pg_stat_get_db_conflict_tablespace pg_stat_get_total_autoanalyze_time pg_stat_get_tuples_newpage_updated \
    pg_replication_origin_session_reset pg_replication_origin_session_setup pg_stat_get_backend_wait_event_type \
    pg_stat_get_checkpointer_write_time pg_stat_get_db_conflict_logicalslot pg_stat_get_xact_function_self_time \
    pg_stat_get_xact_tuples_hot_updated pg_stat_reset_single_table_counters pg_database_collation_actual_version \
    pg_stat_get_bgwriter_stat_reset_time pg_stat_get_db_checksum_last_failure pg_stat_get_xact_function_total_time \
    pg_stat_get_bgwriter_maxwritten_clean pg_stat_get_checkpointer_slru_written \
    pg_replication_origin_session_is_setup pg_replication_origin_session_progress \
    pg_stat_get_bgwriter_buf_written_clean pg_stat_get_bgwriter_timed_checkpoints \
    pg_stat_get_checkpointer_num_performed pg_stat_get_checkpointer_num_requested \
    pg_stat_reset_single_function_counters pg_stat_get_db_idle_in_transaction_time \
    pg_stat_get_xact_tuples_newpage_updated pg_stat_get_checkpointer_buffers_written \
    pg_stat_get_checkpointer_stat_reset_time pg_stat_get_db_conflict_startup_deadlock \
    pg_stat_get_db_parallel_workers_launched pg_stat_get_db_parallel_workers_to_launch \
    pg_stat_get_bgwriter_requested_checkpoints pg_stat_get_bgwriter_buf_written_checkpoints \
    pg_stat_get_checkpointer_restartpoints_timed pg_stat_get_checkpointer_restartpoints_performed \
    pg_stat_get_checkpointer_restartpoints_requested \
    ";

/// Functions whose answer any node may give.
pub(super) const READ: &str = "\
    ln pi abs age avg bit box chr cos cot div erf exp gcd lag lcm log max md5 min mod now oid pow sin sum tan xid xml \
    acos area asin atan bool cbrt ceil char cidr corr cosd cosh cotd date dexp erfc host int2 int4 int8 lead left \
    like line lpad lseg mode name path rank rpad sign sind sinh sqrt tand tanh text time acosd acosh ascii asind \
    asinh atan2 atand atanh btrim bytea count crc32 dlog1 every floor gamma log10 lower ltrim money ntile point popen \
    power right round rtrim scale slope strip trunc upper width xpath abbrev atan2d bit_or bitcmp bpchar center \
    circle concat crc32c decode dlog10 dround dtrunc encode family float4 float8 format height isopen isperp length \
    lgamma pclose pg_lsn radius random repeat sha224 sha256 sha384 sha512 stddev strpos substr system timetz to_bin \
    to_hex to_oct unistr unnest uuidv4 uuidv7 varbit xmlagg bit_and bit_xor bool_or ceiling cidsend convert degrees \
    extract get_bit hashcid hashoid hashtid hashxid initcap int4inc int8dec int8inc isempty macaddr masklen netmask \
    network notlike npoints numeric numnode oidsend overlay polygon radians regr_r2 replace reverse set_bit textlen \
    tidsend to_char to_date to_json ts_rank tsrange var_pop varchar version xid8cmp xidsend xmltext bit_send bool_and \
    boolsend box_send btoidcmp bttidcmp byteacmp casefold cash_cmp charsend date_add date_bin date_cmp diagonal \
    diameter enum_cmp get_byte hashbool hashchar hashdate hashenum hashinet hashint2 hashint4 hashint8 hashname \
    hashtext hashxid8 hostmask in_range int2_sum int2send int4_sum int4send int8_avg int8_sum int8send interval \
    isclosed isfinite json_agg macaddr8 mxid_age namesend numrange overlaps pg_sleep position regclass regr_sxx \
    regr_sxy regr_syy set_byte textsend time_cmp timezone to_ascii to_jsonb ts_debug ts_parse uuid_cmp var_samp \
    variance xid8send xml_send aclinsert aclremove any_value array_agg bernoulli bit_count bound_box bpcharcmp \
    broadcast btboolcmp btcharcmp btint2cmp btint4cmp btint8cmp btnamecmp bttextcmp byteasend cash_send cidr_send \
    concat_ws covar_pop cume_dist date_part date_send daterange enum_last enum_send factorial hashbytea inet_send \
    int4range int8range json_each json_send jsonb_agg jsonb_cmp jsonb_set line_send localtime lower_inc lower_inf \
    lseg_send make_date make_time min_scale normalize nth_value num_nulls oidlarger path_send pg_typeof poly_send \
    querytree range_agg range_cmp regr_avgx regr_avgy setweight substring tidlarger time_hash time_send timeofday \
    timestamp to_number translate ts_delete ts_filter ts_lexize tstzrange upper_inc upper_inf uuid_hash uuid_send \
    varbitcmp void_send xmlexists acldefault aclexplode array_dims array_fill array_send array_sort bit_length \
    bpcharsend btarraycmp btint24cmp btint28cmp btint42cmp btint48cmp btint82cmp btint84cmp cash_words cashlarger \
    convert_to covar_samp date_trunc dense_rank enum_first enum_range float4send float8_avg float8send hash_array \
    hash_range hashbpchar hashfloat4 hashfloat8 inet_merge int2larger int4larger int8larger isparallel isvertical \
    jsonb_each jsonb_hash jsonb_send last_value multirange numeric_ln oidsmaller pg_get_acl pg_lsn_cmp point_send \
    range_send regr_count regr_slope row_number split_part stddev_pop string_agg tidsmaller timetz_cmp to_regoper \
    to_regproc to_regrole to_regtype to_tsquery trim_array trim_scale ts_rank_cd xmlcomment xmlconcat2 aclcontains \
    array_lower array_ndims array_upper bittypmodin btfloat4cmp btfloat8cmp btrecordcmp cardinality cashsmaller \
    char_length circle_send date_larger enum_larger first_value float8_corr format_type hash_record hashmacaddr \
    int2smaller int4smaller int8dec_any int8inc_any int8smaller json_object json_typeof like_escape macaddr_cmp \
    makeaclitem network_cmp numeric_cmp numeric_exp numeric_inc numeric_log parse_ident pg_basetype pg_get_expr \
    pg_has_role pg_lsn_hash pg_lsn_send quote_ident range_merge record_send regexp_like regopersend regprocsend \
    regrolesend regtypesend row_to_json set_masklen stddev_samp system_user text_larger time_larger timestamptz \
    timetz_hash timetz_send to_regclass to_tsvector ts_headline tsquery_cmp tsquerysend unknownsend varbit_send \
    varcharsend xid8_larger xmlvalidate array_append array_larger array_length array_remove array_sample btequalimage \
    btfloat48cmp btfloat84cmp bytea_larger convert_from current_date current_time current_user date_smaller \
    enum_smaller float4_accum float4larger float8_accum float8larger hash_aclitem hash_numeric hashmacaddr8 \
    int2int4_sum interval_avg interval_cmp ishorizontal jsonb_insert jsonb_object jsonb_pretty jsonb_typeof \
    justify_days macaddr8_cmp macaddr_send num_nonnulls numeric_send numeric_sqrt octet_length percent_rank \
    pg_sleep_for regclasssend regexp_count regexp_instr regexp_match session_user text_smaller time_smaller \
    timetypmodin to_timestamp tsmultirange tsvector_cmp tsvectorsend width_bucket xid8_smaller xpath_exists \
    anyarray_send array_prepend array_replace array_reverse array_shuffle array_smaller array_to_json bpchar_larger \
    btnametextcmp bttextnamecmp bytea_smaller current_query date_subtract float4smaller float8smaller getpgusername \
    hashoidvector interval_hash interval_send is_normalized jsonb_set_lax jsonpath_send justify_hours macaddr8_send \
    make_interval nameconcatoid nummultirange oidvectorsend pg_lsn_larger pg_size_bytes quote_literal random_normal \
    record_larger regconfigsend regexp_substr timestamp_cmp timetz_larger to_regtypemod ts_token_type array_position \
    bpchar_smaller bpchartypmodin btoidvectorcmp current_schema datemultirange float8_combine float8_regr_r2 \
    float8_var_pop int2_avg_accum int2vectorsend int4_avg_accum int4multirange int8multirange interval_accum \
    json_each_text json_to_record localtimestamp make_timestamp multirange_cmp network_larger numeric_larger \
    oidvectortypes pg_column_size pg_get_ruledef pg_get_viewdef pg_lsn_smaller pg_size_pretty pg_sleep_until \
    quote_nullable record_smaller regexp_matches regexp_replace regr_intercept similar_escape timestamp_hash \
    timestamp_send timetz_smaller timetztypmodin to_regoperator tsquery_phrase tstzmultirange varbittypmodin \
    array_positions array_to_string clock_timestamp col_description current_schemas current_setting float8_regr_sxx \
    float8_regr_sxy float8_regr_syy float8_var_samp gen_random_uuid generate_series hash_multirange hashcidextended \
    hashoidextended hashtidextended hashxidextended interval_larger json_agg_strict json_object_agg jsonb_each_text \
    jsonb_to_record multirange_send network_smaller numeric_smaller numerictypmodin obj_description percentile_cont \
    percentile_disc pg_get_indexdef pg_get_keywords pg_get_userbyid pg_snapshot_xip pg_wal_lsn_diff plainto_tsquery \
    regoperatorsend string_to_array string_to_table timestamptz_cmp to_regcollation to_regnamespace to_regprocedure \
    tsrange_subdiff unicode_version varchartypmodin boolor_statefunc btrecordimagecmp character_length \
    current_database float8_covar_pop float8_regr_avgx float8_regr_avgy gin_cmp_tslexeme hashboolextended \
    hashcharextended hashdateextended hashenumextended hashinetextended hashint2extended hashint4extended \
    hashint8extended hashnameextended hashtextextended hashxid8extended inet_same_family int4_avg_combine \
    interval_combine interval_smaller intervaltypmodin json_build_array json_object_keys json_strip_nulls \
    json_to_tsvector jsonb_agg_strict jsonb_object_agg jsonb_path_match jsonb_path_query justify_interval \
    macaddr8_set7bit make_timestamptz numrange_subdiff pg_collation_for pg_mcv_list_send pg_snapshot_send \
    pg_snapshot_xmax pg_snapshot_xmin pg_trigger_depth phraseto_tsquery regcollationsend regnamespacesend \
    regproceduresend timestamp_larger timestamptz_hash timestamptz_send unicode_assigned any_value_transfn \
    array_to_tsvector booland_statefunc current_timestamp daterange_subdiff float8_covar_samp float8_regr_accum \
    float8_regr_slope float8_stddev_pop gin_compare_jsonb hashbyteaextended int4range_subdiff int8range_subdiff \
    json_array_length json_build_object json_extract_path json_to_recordset jsonb_build_array jsonb_object_keys \
    jsonb_path_exists jsonb_strip_nulls jsonb_to_tsvector numeric_div_trunc pg_get_partkeydef pg_get_triggerdef \
    pg_is_in_recovery pg_mcv_list_items pg_my_temp_schema pg_ndistinct_send pg_node_tree_send pg_partition_root \
    pg_partition_tree pg_timezone_names regdictionarysend shobj_description similar_to_escape timestamp_smaller \
    timestamptypmodin tstzrange_subdiff tsvector_to_array txid_snapshot_xip bttext_pattern_cmp btvarstrequalimage \
    date_cmp_timestamp float8_stddev_samp has_type_privilege hashbpcharextended hashfloat4extended hashfloat8extended \
    int2_avg_accum_inv int4_avg_accum_inv interval_accum_inv jsonb_array_length jsonb_build_object jsonb_extract_path \
    jsonb_to_recordset pg_client_encoding pg_describe_object pg_get_functiondef pg_identify_object pg_type_is_visible \
    time_hash_extended timestamp_cmp_date timestamptz_larger txid_snapshot_send txid_snapshot_xmax txid_snapshot_xmin \
    uuid_hash_extended xml_is_well_formed daterange_canonical float8_regr_combine generate_subscripts \
    getdatabaseencoding has_table_privilege hash_array_extended hash_range_extended hashmacaddrextended \
    icu_unicode_version int4range_canonical int8range_canonical json_array_elements jsonb_hash_extended \
    jsonb_path_match_tz jsonb_path_query_tz pg_char_to_encoding pg_ddl_command_send pg_encoding_to_char \
    pg_options_to_table pg_table_is_visible pg_timezone_abbrevs range_intersect_agg row_security_active \
    statement_timestamp timestamptz_smaller timestamptztypmodin btbpchar_pattern_cmp date_cmp_timestamptz \
    has_column_privilege has_schema_privilege has_server_privilege hash_record_extended hashmacaddr8extended \
    json_populate_record jsonb_array_elements jsonb_path_exists_tz pg_dependencies_send pg_filenode_relation \
    pg_get_constraintdef pg_lsn_hash_extended pg_relation_filenode pg_relation_filepath timestamptz_cmp_date \
    timetz_hash_extended uuid_extract_version websearch_to_tsquery float8_regr_intercept get_current_ts_config \
    hash_aclitem_extended hash_numeric_extended hashoidvectorextended int8inc_float8_float8 jsonb_populate_record \
    pg_column_compression pg_get_object_address pg_index_has_property pg_opclass_is_visible pg_settings_get_flags \
    pg_ts_dict_is_visible regexp_split_to_array regexp_split_to_table transaction_timestamp has_database_privilege \
    has_function_privilege has_language_privilege has_sequence_privilege interval_hash_extended \
    json_extract_path_text json_object_agg_strict json_object_agg_unique jsonb_path_query_array \
    jsonb_path_query_first pg_column_is_updatable pg_encoding_max_length pg_function_is_visible \
    pg_get_function_result pg_get_serial_sequence pg_operator_is_visible pg_opfamily_is_visible \
    pg_partition_ancestors pg_sequence_parameters pg_visible_in_snapshot spg_poly_quad_compress \
    uuid_extract_timestamp anycompatiblearray_send brin_bloom_summary_send has_parameter_privilege \
    json_populate_recordset jsonb_extract_path_text jsonb_object_agg_strict jsonb_object_agg_unique \
    pg_collation_is_visible pg_get_function_sqlbody pg_get_statisticsobjdef pg_indexam_has_property \
    pg_is_other_temp_schema pg_ts_config_is_visible pg_ts_parser_is_visible timestamp_hash_extended \
    has_any_column_privilege has_tablespace_privilege hash_multirange_extended json_array_elements_text \
    jsonb_populate_recordset pg_column_toast_chunk_id pg_conversion_is_visible pg_relation_is_updatable \
    pg_timezone_abbrevs_zone postgresql_fdw_validator satisfies_hash_partition txid_current_if_assigned \
    txid_visible_in_snapshot has_largeobject_privilege jsonb_array_elements_text jsonb_path_query_array_tz \
    jsonb_path_query_first_tz pg_get_function_arguments pg_get_publication_tables pg_ts_template_is_visible \
    timestamp_cmp_timestamptz timestamptz_cmp_timestamp timestamptz_hash_extended pg_relation_is_publishable \
    xml_is_well_formed_content jsonb_populate_record_valid pg_get_catalog_foreign_keys pg_get_function_arg_default \
    pg_timezone_abbrevs_abbrevs range_intersect_agg_transfn xml_is_well_formed_document pg_index_column_has_property \
    pg_statistics_obj_is_visible gist_translate_cmptype_common json_object_agg_unique_strict \
    pg_get_replica_identity_index pg_identify_object_as_address pg_indexam_progress_phasename \
    brin_minmax_multi_summary_send jsonb_object_agg_unique_strict pg_current_xact_id_if_assigned \
    pg_get_partition_constraintdef pg_get_statisticsobjdef_columns multirange_intersect_agg_transfn \
    has_foreign_data_wrapper_privilege pg_get_function_identity_arguments pg_get_statisticsobjdef_expressions \
    ";

/// Operators; none of them is over a volatile function.
pub(super) const OPERATORS: &str = "\
    # % & * + - / < = > ? @ ^ | ~ !! !~ ## #- #> && &< &> *< *= *> -> << <= <> <@ <^ >= >> >^ ?# ?& ?- ?| @> @? @@ \
    ^@ |/ || ~* ~= ~~ !~* !~~ #>> &<| *<= *<> *>= ->> -|- <-> <<= <<| >>= ?-| ?|| @-@ @@@ |&> |>> ||/ ~<~ ~>~ ~~* \
    !~~* ~<=~ ~>=~ \
    ";

/// Types, by the names that the catalogue has for them.
pub(super) const TYPES: &str = "\
    bit box cid oid tid xid xml bool char cidr date inet int2 int4 int8 json line lseg name path text time uuid \
    xid8 bytea jsonb money point bpchar circle float4 float8 pg_lsn timetz varbit aclitem macaddr numeric polygon \
    regoper regproc regrole regtype tsquery tsrange varchar interval jsonpath macaddr8 numrange regclass tsvector \
    daterange gtsvector int4range int8range oidvector refcursor regconfig timestamp tstzrange int2vector \
    pg_mcv_list pg_snapshot regoperator timestamptz pg_ndistinct pg_node_tree regcollation regnamespace \
    regprocedure tsmultirange nummultirange regdictionary txid_snapshot datemultirange int4multirange \
    int8multirange tstzmultirange pg_dependencies pg_brin_bloom_summary pg_brin_minmax_multi_summary \
    ";
