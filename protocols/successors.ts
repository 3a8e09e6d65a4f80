// Warm successors: who would take over what an AP holds, were it to die at this moment. They are to have the images before
// they need them. Pure, and worked out by the placement itself.
import type { Outlook } from './outlook.js'
import { type Placed, place } from './placement.js'

/** How many APs make ready for an instance: the second one is for when its holder and the first one go together. */
const READY = 2

type View = Pick<Outlook, 'chutes' | 'claims' | 'candidates' | 'placed'>

/**
 * Who makes ready for each instance that an AP holds, first rank first, by hex of the instance. What does not migrate, or
 * fits nowhere else, has none.
 * @param holder AP id
 */
export function successorsOf(view: View, holder: string, nowMs: number): ReadonlyMap<string, readonly string[]> {
  const { chutes, claims, candidates, placed } = view
  const held = new Set(placed.filter((one) => one.holder === holder).map(({ instance }) => instance))
  const candidate = candidates.get(holder)
  if (held.size === 0 || candidate === undefined) return new Map()
  const without = new Map(candidates).set(holder, { ...candidate, state: 'dead' })
  const moved = place(chutes, claims, without, nowMs).filter(({ instance }) => held.has(instance))
  return new Map(moved.map(({ instance, ranks }) => [instance, ranks.slice(0, READY)]))
}

/**
 * What an AP makes ready for: what would be its own first before what would be another one's first.
 * @param self AP id
 * @param matters whether it is of any interest that this AP makes ready for an instance: that spares the work of finding out
 */
export function inheritanceOf(
  view: View,
  self: string,
  nowMs: number,
  matters: (placed: Placed) => boolean,
): readonly Placed[] {
  const others = new Map<string, Placed[]>()
  for (const placed of view.placed) {
    const { holder } = placed
    if (holder === undefined || holder === self || !matters(placed)) continue
    others.set(holder, [...(others.get(holder) ?? []), placed])
  }
  const mine: Placed[][] = Array.from({ length: READY }, () => [])
  for (const [holder, held] of others) {
    const successors = successorsOf(view, holder, nowMs)
    for (const placed of held) mine[successors.get(placed.instance)?.indexOf(self) ?? -1]?.push(placed)
  }
  return mine.flat()
}
