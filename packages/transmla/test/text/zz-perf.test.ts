import { readFileSync, readdirSync } from "node:fs";
import { test } from "vitest";
import { parseTokenizer } from "../../src/text/tokenizer.ts";
import { createTextStream } from "../../src/text/stream.ts";
test("perf",()=>{
 const text=readFileSync("/work/shared/text/tinyshakespeare.txt","utf8");
 for(const k of readdirSync("/work/shared/fixtures/tokenizers")){
  const t=parseTokenizer(JSON.parse(readFileSync(`/work/shared/fixtures/tokenizers/${k}/tokenizer.json`,"utf8")),null);
  let a=performance.now(); let n=0; try{ n=t.encode(text).length;}catch(e){console.log(k,String(e).slice(0,200));}
  const b=performance.now();
  const ids=t.encode(text.slice(0,20000)); const c=performance.now(); const s=createTextStream(t); let out=""; for(const i of ids) out+=s.push(i); out+=s.end(); const d=performance.now();
  console.log(k,n,"encode 1.1MB ms",(b-a)|0,"stream us/token",((d-c)*1000/ids.length).toFixed(1), out===t.decode(ids));
 }
},120000);
