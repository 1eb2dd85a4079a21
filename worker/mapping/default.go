package mapping

import "slices"

// DefaultYAML is the source of the built-in mapping, a start for one's own.
func DefaultYAML() []byte { return slices.Clone(defaultYAML) }
