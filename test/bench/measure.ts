// Repeated measurements and how they are printed: what was compared, how many runs, median and spread.

/** Runs `once` so many times, or DROPMESH_BENCH_RUNS times where that is set, and keeps what it returns. */
export async function repeat(runs: number, once: (run: number) => Promise<number>): Promise<number[]> {
  const values: number[] = []
  const times = Number(process.env.DROPMESH_BENCH_RUNS) || runs
  for (let run = 0; run < times; run++) values.push(await once(run))
  return values
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = Math.floor(sorted.length / 2)
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

/** The value that this share of all values does not exceed (nearest rank): of few values the 0.99th is the highest. */
export function percentile(values: readonly number[], share: number): number {
  return [...values].sort((a, b) => a - b)[Math.ceil(share * values.length) - 1]!
}

/** `2.31 s (5 runs, 2.10 to 3.02)` */
export function summary(values: readonly number[], unit: string, digits = 2): string {
  const [low, high] = [Math.min(...values), Math.max(...values)].map((value) => value.toFixed(digits))
  return `${median(values).toFixed(digits)} ${unit} (median of ${values.length} runs, ${low} to ${high})`
}

export function report(what: string, lines: string[]): void {
  console.log(`\n${what}`)
  for (const line of lines) console.log(`  ${line}`)
}
