package genesys

// A Skill is one routing skill as a user has it, or should have it.
type Skill struct {
	Name        string  // as the org spells it; case matters
	Proficiency float64 // 0 to 5
	// Level is the org's own word for the proficiency where it is not a number ("Expert"), and
	// empty otherwise. Only the custom-attributes profile can answer with one.
	Level string
}

// An Attribute is one custom attribute of a user, for the custom-attributes profile.
type Attribute struct{ Name, Value string }

// A User is what Genesys Cloud answers when asked about one user.
type User struct {
	ID      string // Genesys Cloud's UUID
	Version string // what If-Match takes, without the quotes; empty if the answer had none
	Skills  []Skill
}

// A Patch is one write to one user. The profile decides which half goes over the wire.
type Patch struct {
	Attributes []Attribute // custom-attributes: the attributes to set
	Skills     []Skill     // routing-skills: the whole set the user shall have afterwards
	Version    string      // If-Match; empty sends none
}

// A Person is what a record knows to find its user by.
type Person struct{ EmployeeID, Email string }
