// `dropmesh events`: what happened, with causes.
import type { Command } from 'commander'
import type { MeshEvent } from '../../node/events.js'
import { describeEvent } from '../describe.js'
import { parseDuration } from '../duration.js'
import { clientOf, forNode, type NodeOptions } from '../options.js'
import { print } from '../output.js'

interface EventsOptions extends NodeOptions {
  follow?: boolean
  since?: string
}

export function addEvents(program: Command): void {
  const command = program
    .command('events')
    .description('joins, deaths, migrations, publishes, refusals, with causes; with --json one object a line')
    .option('-f, --follow', 'go on with new ones')
    .option('--since <time>', 'ISO 8601 time, or 30s, 10m, 2h, 3d ago')
  forNode(command, 'dropmesh events --since 10m -f').action(events)
}

async function events(options: EventsOptions): Promise<void> {
  const query: Record<string, string> = { follow: String(options.follow ?? false) }
  if (options.since !== undefined) query.since = parseSince(options.since)
  for await (const event of clientOf(options).lines<MeshEvent>('GET', '/v1/events', query)) {
    print(options.json ? JSON.stringify(event) : describeEvent(event))
  }
}

function parseSince(text: string): string {
  const at = Date.parse(text)
  return new Date(Number.isNaN(at) ? Date.now() - parseDuration(text, '--since') : at).toISOString()
}
