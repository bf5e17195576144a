//! The only place that knows all parts: builds, wires, orders start and stop.
