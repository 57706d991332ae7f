@_exported public import IngotABI
