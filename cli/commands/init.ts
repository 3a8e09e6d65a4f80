// `dropmesh init`: a chute to start from.
import { cp, readdir } from 'node:fs/promises'
import { resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Command } from 'commander'
import { packageRoot } from '../../node/root.js'
import { MeshError } from '../../protocols/error.js'
import { withExample } from '../options.js'
import { print, printJson, printTable } from '../output.js'

const templates: Record<string, string> = { hello: 'a web server in JavaScript that says where it runs' }
const folder = (name: string): string => fileURLToPath(new URL(`cli/templates/${name}`, packageRoot))

interface InitOptions {
  template: string
  list?: boolean
  json?: boolean
}

export function addInit(program: Command): void {
  const command = program
    .command('init')
    .argument('[dir]', 'folder to make (default: the name of the template)')
    .description('make a chute from a template')
    .option('--template <name>', 'which template', 'hello')
    .option('--list', 'list the templates')
    .option('--json', 'print one JSON document')
  withExample(command, 'dropmesh init my-chute --template hello').action(init)
}

async function init(dir: string | undefined, options: InitOptions): Promise<void> {
  if (options.list) {
    const all = Object.entries(templates).map(([template, description]) => ({ template, description }))
    if (options.json) return printJson(all)
    return printTable(
      ['TEMPLATE', 'WHAT IT IS'],
      all.map(({ template, description }) => [template, description]),
    )
  }
  if (!Object.hasOwn(templates, options.template)) {
    throw new MeshError('template', `there is no template "${options.template}"; see "dropmesh init --list"`)
  }
  const target = resolve(dir ?? options.template)
  const there = await readdir(target).catch(() => [])
  if (there.length > 0) throw new MeshError('not-empty', `${target} is not empty; name a new folder`)
  await cp(folder(options.template), target, { recursive: true })
  if (options.json) printJson({ template: options.template, dir: target, files: (await readdir(target)).sort() })
  else print(`${target} is ready; publish it with: dropmesh publish ${dir ?? options.template}`)
}
