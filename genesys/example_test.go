package genesys_test

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"

	"skillsync/genesys"
	"skillsync/genesys/sandbox"
)

func Example() {
	// A sandbox stands in for the organization; genesys.Hosts knows where real ones are.
	org := httptest.NewServer(sandbox.New(sandbox.Org(10)))
	defer org.Close()

	client := &genesys.Client{
		API:      org.URL,
		ClientID: "sandbox", ClientSecret: "sandbox",
		Authority: "hris",
	}
	ctx := context.Background()

	id, err := client.Find(ctx, genesys.Person{EmployeeID: "EMP-0007"})
	if err != nil {
		fmt.Println(err)
		return
	}
	user, err := client.User(ctx, id)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("before:", user.Skills)

	// A patch is the whole set: what the user shall keep is in it.
	_, err = client.Patch(ctx, id, genesys.Patch{
		Skills:  append(user.Skills, genesys.Skill{Name: "Billing", Proficiency: 4}),
		Version: user.Version,
	})
	if errors.Is(err, genesys.ErrStale) {
		fmt.Println("somebody else changed the user: read and patch again")
	}

	user, err = client.User(ctx, id)
	fmt.Println("after: ", user.Skills, err)
	// Output:
	// before: [{Spanish 3 }]
	// after:  [{Billing 4 } {Spanish 3 }] <nil>
}

func ExampleHosts() {
	api, login, err := genesys.Hosts("eu_central_1")
	fmt.Println(api, login, err)
	// Output: https://api.mypurecloud.de https://login.mypurecloud.de <nil>
}
