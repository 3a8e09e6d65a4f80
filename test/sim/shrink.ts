// Makes a scenario shorter that still breaks the same promise: leaves out more and more of its actions. The method is delta
// debugging (Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", 2002).
import type { Action, Scenario } from './scenario.js'

/**
 * @param breaks runs a scenario and tells whether it still breaks the promise
 * @param until when to be content with what was reached, on the scale of `performance.now()`
 */
export async function shrink(
  scenario: Scenario,
  breaks: (scenario: Scenario) => Promise<boolean>,
  until: number,
): Promise<Scenario> {
  let { actions } = scenario
  let parts = 2
  while (actions.length >= 2 && performance.now() < until) {
    const size = Math.ceil(actions.length / parts)
    let isShorter = false
    for (let from = 0; from < actions.length && performance.now() < until; from += size) {
      const without: Action[] = [...actions.slice(0, from), ...actions.slice(from + size)]
      if (!(await breaks({ ...scenario, actions: without }))) continue
      actions = without
      parts = Math.max(parts - 1, 2)
      isShorter = true
      break
    }
    if (isShorter) continue
    if (parts >= actions.length) break
    parts = Math.min(parts * 2, actions.length)
  }
  return { ...scenario, actions }
}
