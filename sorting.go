package main

import "sort"

// slices.SortFunc is compiled for each type of element, 13 KB at a time. Those below are
// for lists that are not sorted often: they are half as fast, and small.

// dropIf removes the elements for which drop returns true, as slices.DeleteFunc does.
// That is compiled for each type too, and is 1 KB for a large one, which it copies for
// each call.
func dropIf[T any](list []T, drop func(*T) bool) []T {
	kept := 0
	for i := range list {
		if !drop(&list[i]) {
			list[kept] = list[i]
			kept++
		}
	}
	clear(list[kept:])
	return list[:kept]
}

// sortBy sorts a list; elements that compare equal come in any order.
func sortBy[T any](list []T, compare func(a, b T) int) {
	sort.Slice(list, func(i, j int) bool { return compare(list[i], list[j]) < 0 })
}

// sortStableBy sorts a list and keeps the order of elements that compare equal.
func sortStableBy[T any](list []T, compare func(a, b T) int) {
	sort.SliceStable(list, func(i, j int) bool { return compare(list[i], list[j]) < 0 })
}
