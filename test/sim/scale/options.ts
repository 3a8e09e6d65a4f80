// The command lines of both commands: what they have in common, and how they refuse.
import { type ParseArgsConfig, parseArgs } from 'node:util'
import type { Conditions } from './world.js'

/** Of links, and of chance. */
export const COMMON = {
  loss: { type: 'string', default: '0.01' },
  latency: { type: 'string', default: '20' },
  jitter: { type: 'string', default: '10' },
  seed: { type: 'string', default: '1' },
} as const

export class CommandLine {
  constructor(private readonly usage: string) {}

  read<const O extends NonNullable<ParseArgsConfig['options']>>(options: O) {
    try {
      return parseArgs({ options }).values
    } catch (error) {
      return this.stop((error as Error).message)
    }
  }

  conditions(args: Record<'loss' | 'latency' | 'jitter', string>): Conditions {
    const [loss, latency, jitter] = [Number(args.loss), Number(args.latency), Number(args.jitter)]
    if (!(loss >= 0 && loss < 1 && latency >= jitter && jitter >= 0))
      this.stop('--loss takes less than 1, --latency no less than the jitter')
    return { loss, latency, jitter }
  }

  stop(why: string): never {
    console.error(`${why}\n\n${this.usage}`)
    process.exit(2)
  }
}
