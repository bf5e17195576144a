//! Every figure the proxy exports: counters, gauges and latency histograms.
