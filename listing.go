package main

type listingCache struct{}
