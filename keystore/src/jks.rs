//! JKS.
