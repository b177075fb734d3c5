//! Every rule of the manager, against a real store.
