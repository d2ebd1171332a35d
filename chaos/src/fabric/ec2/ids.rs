//! EC2 resource ids, one type each.

use std::fmt;

macro_rules! resource_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            #[must_use]
            pub fn new(id: impl Into<String>) -> $name {
                $name(id.into())
            }

            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }
    };
}

resource_id!(
    /// `eni-…`
    InterfaceId
);
resource_id!(
    /// `i-…`
    InstanceId
);
resource_id!(
    /// `subnet-…`
    SubnetId
);
resource_id!(
    /// `eipalloc-…`: an Elastic IP.
    AllocationId
);
resource_id!(
    /// `eipassoc-…`: a binding of an Elastic IP to a private address.
    AssociationId
);
